/* Handles: distinct, exact in a double, dead once their object is. */
#include "base/slots.h"

#include "check.h"

static void test_find(void)
{
    struct slots slots = {0};
    int a, b;
    uint64_t first = slots_add(&slots, &a), second = slots_add(&slots, &b);
    CHECK(first != second && first != 0 && second != 0);
    CHECK(slots_find(&slots, first) == &a && slots_find(&slots, second) == &b);
    CHECK(slot_place(first) == 1 && slot_place(second) == 2);
    slots_free(&slots);
}

static void test_dead(void)
{
    struct slots slots = {0};
    int a, b;
    uint64_t old = slots_add(&slots, &a);
    slots_remove(&slots, old);
    uint64_t new = slots_add(&slots, &b);
    CHECK(slot_place(old) == slot_place(new) && old != new);
    CHECK(slots_find(&slots, old) == NULL && slots_find(&slots, new) == &b);
    slots_remove(&slots, old);
    CHECK(slots.count == 1);
    slots_free(&slots);
}

static void test_strange(void)
{
    struct slots slots = {0};
    CHECK(slots_find(&slots, 0) == NULL);
    CHECK(slots_find(&slots, UINT64_MAX) == NULL);
    CHECK(slots_find(&slots, 1) == NULL);
    CHECK(slots_at(&slots, 0) == NULL && slots_at(&slots, 7) == NULL);
    slots_free(&slots);
}

static void test_double(void)
{
    struct slots slots = {0};
    int a;
    uint64_t handle = 0;
    for (int i = 0; i < 100000; i++) {
        handle = slots_add(&slots, &a);
        CHECK((uint64_t)(double)handle == handle);
        slots_remove(&slots, handle);
    }
    CHECK(slots.used == 2);
    slots_free(&slots);
}

int main(void)
{
    static const struct test tests[] = {
        {"a handle finds its object, and places count from 1", test_find},
        {"a handle that outlived its object finds nothing, not its successor", test_dead},
        {"a number that is no handle finds nothing", test_strange},
        {"handles are exact as doubles, and places are used again", test_double},
    };
    return check_all(tests, sizeof tests / sizeof *tests);
}
