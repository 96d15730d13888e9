/* The command line: what is understood, and what is said of what is not. */
#include "base/options.h"

#include "check.h"

enum { MOST = 12 };

/* Parses the words of a line; "" or the problem. */
static const char *parse(struct options *options, const char *line)
{
    static char text[200], problem[200];
    static char *argv[MOST + 1];
    int argc = 0;
    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok(text, " "); word && argc < MOST; word = strtok(NULL, " "))
        argv[argc++] = word;
    argv[argc] = NULL;
    problem[0] = '\0';
    options_parse(options, argc, argv, problem, sizeof problem);
    return problem;
}

static void test_run(void)
{
    struct options options;
    CHECK_TEXT(parse(&options, "skald run --grace 5 echo listen=tcp:0 --jit=off poetry"), "");
    CHECK_TEXT(options.command, "run");
    CHECK(options.grace == 5 && options.count == 3);
    CHECK_TEXT(options.jit, "off");
    CHECK_TEXT(options.words[0], "echo");
    CHECK_TEXT(options.words[2], "poetry");
    CHECK_TEXT(parse(&options, "skald run --grace=0.5 --log-level=debug echo"), "");
    CHECK(options.grace == 0.5 && options.log_level == LOG_DEBUG);
}

static void test_defaults(void)
{
    struct options options;
    parse(&options, "skald run echo");
    CHECK(options.grace == 10 && options.log_level == LOG_INFO && options.jit == NULL);
}

static void test_wrong(void)
{
    struct options options;
    CHECK_TEXT(parse(&options, "skald"), "a command is missing");
    CHECK_TEXT(parse(&options, "skald fly"), "unknown command 'fly'");
    CHECK_TEXT(parse(&options, "skald run"), "run: a script is missing");
    CHECK_TEXT(parse(&options, "skald run --speed=9 echo"), "unknown option '--speed=9'");
    CHECK_TEXT(parse(&options, "skald run echo --grace"), "--grace takes a value");
    CHECK_TEXT(parse(&options, "skald run --grace=soon echo"),
               "--grace: 'soon' is no number of seconds");
    CHECK_TEXT(parse(&options, "skald run --grace=-1 echo"),
               "--grace: '-1' is no number of seconds");
    CHECK_TEXT(parse(&options, "skald run --log-level=loud echo"),
               "--log-level: 'loud' is none of debug, info, warning, error");
    CHECK_TEXT(parse(&options, "skald new"), "new: a name is missing");
    CHECK_TEXT(parse(&options, "skald new a b"), "new: what is 'b'?");
    CHECK_TEXT(parse(&options, "skald test --timeout=0"),
               "--timeout: '0' is no number of seconds above 0");
    CHECK_TEXT(parse(&options, "skald run --filter=x echo"), "run: no such option: --filter");
    CHECK_TEXT(parse(&options, "skald run --control= echo"), "--control takes a path");
    CHECK_TEXT(parse(&options, "skald run --watch=yes echo"), "--watch takes no value");
    CHECK_TEXT(parse(&options, "skald reload --watch"), "reload: no such option: --watch");
    CHECK_TEXT(parse(&options, "skald reload a b"), "reload: what is 'b'?");
    CHECK_TEXT(parse(&options, "skald unload"), "unload: a service is missing");
}

static void test_client(void)
{
    struct options options;
    CHECK_TEXT(parse(&options, "skald reload --json chat --force --control /run/x.sock"), "");
    CHECK(options.json && options.force && !options.watch && options.count == 1);
    CHECK_TEXT(options.words[0], "chat");
    CHECK_TEXT(options.control, "/run/x.sock");
    CHECK_TEXT(parse(&options, "skald run --debug echo"), "");
    CHECK(options.debug && !options.watch);
    CHECK_TEXT(parse(&options, "skald status --debug"), "status: no such option: --debug");
    CHECK_TEXT(parse(&options, "skald run --watch echo"), "");
    CHECK(options.watch && options.count == 1);
}

static void test_tests(void)
{
    struct options options;
    CHECK_TEXT(parse(&options, "skald test spec --filter=late --output TAP --timeout 0.5"), "");
    CHECK(options.count == 1 && options.timeout == 0.5);
    CHECK_TEXT(options.filter, "late");
    CHECK_TEXT(options.output, "TAP");
    CHECK_TEXT(parse(&options, "skald test"), "");
    CHECK(options.count == 0 && options.timeout == 10 && options.filter == NULL);
    CHECK(options.grace == 1 && options.log_level == LOG_WARNING);
    CHECK_TEXT(parse(&options, "skald test --grace=3 --log-level=info"), "");
    CHECK(options.grace == 3 && options.log_level == LOG_INFO);
}

static void test_help(void)
{
    struct options options;
    parse(&options, "skald run --help");
    CHECK_TEXT(options.command, "help");
    parse(&options, "skald --version");
    CHECK_TEXT(options.command, "version");
}

int main(void)
{
    static const struct test tests[] = {
        {"options may stand anywhere, with = or a space", test_run},
        {"what is not said has a sensible default", test_defaults},
        {"wrong usage is answered with one line", test_wrong},
        {"options without a value take none", test_client},
        {"tests have options and defaults of their own", test_tests},
        {"--help and --version win over the rest", test_help},
    };
    return check_all(tests, sizeof tests / sizeof *tests);
}
