# async_twisted.py - a peer of the benchmarks: Deferreds, coroutines and timers on Twisted's epoll
# reactor. Arguments: how many of each, then the cases; prints "case: nanoseconds of CPU for one".
import gc
import random
import sys
import time

from twisted.internet import epollreactor

epollreactor.install()

from twisted.internet import defer, reactor  # noqa: E402

SLICE = 1000  # operations on timers in one turn of the loop


def nothing():
    pass


def plus(value):
    return value + 1


def fire(count):
    for i in range(count):
        d = defer.Deferred()
        d.addCallback(plus)
        d.addCallback(plus)
        d.callback(i)


@defer.inlineCallbacks
def yields(count):
    for i in range(count):
        yield defer.succeed(i)


async def awaits(count):
    for i in range(count):
        await defer.succeed(i)


@defer.inlineCallbacks
def yield_once(d):
    yield d


async def await_once(d):
    await d


def wake(wait, count):
    for i in range(count):
        d = defer.Deferred()
        wait(d)
        d.callback(i)


def timer(count):
    for _ in range(count):
        reactor.callLater(10, nothing).cancel()


PLAIN = {
    "fire": fire,
    "await": yields,
    "await-def": lambda count: defer.ensureDeferred(awaits(count)),
    "wake": lambda count: wake(yield_once, count),
    "wake-def": lambda count: wake(lambda d: defer.ensureDeferred(await_once(d)), count),
    "timer": timer,
}


def measure(f, count):
    f(count // 10)
    gc.collect()
    began = time.process_time()
    f(count)
    return (time.process_time() - began) / count * 1e9


def in_slices(count, operate):
    """A Deferred of the CPU time of one operation, so many of which are done in each turn."""
    done = defer.Deferred()
    gc.collect()
    began = time.process_time()

    def go_on(first):
        last = min(first + SLICE, count)
        for i in range(first, last):
            operate(i)
        if last < count:
            reactor.callLater(0, go_on, last)
        else:
            reactor.callLater(0, end)

    def end():
        done.callback((time.process_time() - began) / count * 1e9)

    go_on(0)
    return done


@defer.inlineCallbacks
def pending(size, least):
    """Starts so many timers, replaces them at random, cancels them in random order."""
    count = max(size, least)
    calls = [None] * size
    times = [1000 + 1000 * random.random() for _ in range(count)]
    which = [random.randrange(size) for _ in range(count)]
    order = list(range(size))
    random.shuffle(order)
    starts, cancels = 0, 0

    def start(i):
        calls[i] = reactor.callLater(times[i], nothing)

    def replace(i):
        calls[which[i]].cancel()
        calls[which[i]] = reactor.callLater(times[i], nothing)

    def cancel(i):
        calls[order[i]].cancel()

    repeats = count // size
    for i in range(repeats):
        starts += yield in_slices(size, start)
        if i == repeats - 1:
            replaced = yield in_slices(count, replace)
            print("replace-%d: %.2f" % (size, replaced))
        cancels += yield in_slices(size, cancel)
    print("start-%d: %.2f" % (size, starts / repeats))
    print("cancel-%d: %.2f" % (size, cancels / repeats), flush=True)


@defer.inlineCallbacks
def run(count, cases):
    for case in cases:
        if case in PLAIN:
            print("%s: %.2f" % (case, measure(PLAIN[case], count)), flush=True)
        else:
            yield pending(int(case), count)
    reactor.stop()


def failed(failure):
    failure.printTraceback()
    reactor.stop()


reactor.callWhenRunning(
    lambda: run(int(sys.argv[1]), sys.argv[2:]).addErrback(failed)
)
reactor.run()
