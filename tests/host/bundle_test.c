/* What is compiled into the program. */
#include "lua/bundle.h"

#include "check.h"

#include <lauxlib.h>

static lua_State *L;

static void test_code(void)
{
    int modules = 0;
    for (size_t i = 0; i < bundle_count; i++) {
        const struct bundle_file *file = &bundle_files[i];
        if (strncmp(file->name, "skald/", 6) != 0)
            continue;
        modules++;
        CHECK(file->code != NULL);
        CHECK(luaL_loadbufferx(L, file->code, file->code_size, file->name, "b") == 0);
        CHECK(luaL_loadbufferx(L, file->data, file->size, file->name, "t") == 0);
        lua_settop(L, 0);
    }
    CHECK(modules > 50);
}

static void test_names(void)
{
    CHECK(bundle_find("skald/protocol.lua") != NULL);
    CHECK(bundle_find("services/echo.lua") != NULL &&
          bundle_find("services/echo.lua")->code == NULL);
    CHECK(bundle_find("skald/none.lua") == NULL && bundle_find("") == NULL);
}

int main(void)
{
    static const struct test tests[] = {
        {"each module of the library is there as bytecode that this LuaJIT takes, and as text",
         test_code},
        {"a file is found by its name, and no other", test_names},
    };
    L = luaL_newstate();
    int status = check_all(tests, sizeof tests / sizeof *tests);
    lua_close(L);
    return status;
}
