/* The command line. Pure: reads it, prints nothing. */
#include "base/options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct parse {
    struct options *options;
    char *problem;
    size_t size;
    bool *given; /* by the place in settings */
};

static bool fail(const struct parse *parse, const char *text, const char *word)
{
    snprintf(parse->problem, parse->size, text, word);
    return false;
}

static bool fail2(const struct parse *parse, const char *text, const char *a, const char *b)
{
    snprintf(parse->problem, parse->size, text, a, b);
    return false;
}

static bool set_log_level(const struct parse *parse, const char *value)
{
    int level = log_level_parse(value);
    if (level < 0)
        return fail(parse, "--log-level: '%s' is none of debug, info, warning, error", value);
    parse->options->log_level = (enum log_level)level;
    return true;
}

static bool read_seconds(const char *value, double *seconds)
{
    char *end;
    *seconds = strtod(value, &end);
    return end != value && *end == '\0' && *seconds >= 0 && isfinite(*seconds);
}

static bool set_grace(const struct parse *parse, const char *value)
{
    if (!read_seconds(value, &parse->options->grace))
        return fail(parse, "--grace: '%s' is no number of seconds", value);
    return true;
}

static bool set_timeout(const struct parse *parse, const char *value)
{
    if (!read_seconds(value, &parse->options->timeout) || parse->options->timeout == 0)
        return fail(parse, "--timeout: '%s' is no number of seconds above 0", value);
    return true;
}

static bool set_filter(const struct parse *parse, const char *value)
{
    parse->options->filter = value;
    return true;
}

static bool set_output(const struct parse *parse, const char *value)
{
    parse->options->output = value;
    return true;
}

static bool set_jit(const struct parse *parse, const char *value)
{
    parse->options->jit = value;
    return true;
}

static bool set_control(const struct parse *parse, const char *value)
{
    if (*value == '\0')
        return fail(parse, "%s takes a path", "--control");
    parse->options->control = value;
    return true;
}

static bool set_watch(const struct parse *parse, const char *value)
{
    (void)value;
    parse->options->watch = true;
    return true;
}

static bool set_force(const struct parse *parse, const char *value)
{
    (void)value;
    parse->options->force = true;
    return true;
}

static bool set_debug(const struct parse *parse, const char *value)
{
    (void)value;
    parse->options->debug = true;
    return true;
}

static bool set_json(const struct parse *parse, const char *value)
{
    (void)value;
    parse->options->json = true;
    return true;
}

/*  option, who sets it, whether it takes a value, the commands it belongs to */
static const struct {
    const char *name;
    bool (*set)(const struct parse *parse, const char *value);
    bool takes_value;
    const char *commands;
} settings[] = {
    {"--log-level", set_log_level, true, NULL},
    {"--grace", set_grace, true, NULL},
    {"--jit", set_jit, true, NULL},
    {"--control", set_control, true, " run reload load unload status stop "},
    {"--watch", set_watch, false, " run "},
    {"--debug", set_debug, false, " run check test "},
    {"--filter", set_filter, true, " test "},
    {"--output", set_output, true, " test "},
    {"--timeout", set_timeout, true, " test "},
    {"--force", set_force, false, " reload "},
    {"--json", set_json, false, " reload load unload status stop "},
};

enum { ANY = 1000000 };

/*  command, what is missing with fewer than the least words, least and most words */
static const struct {
    const char *name;
    const char *missing;
    int least;
    int most;
} commands[] = {
    {"run", "a script", 1, ANY},   {"check", "a script", 1, ANY}, {"test", NULL, 0, ANY},
    {"new", "a name", 1, 1},       {"reload", NULL, 0, 1},        {"load", "a script", 1, ANY},
    {"unload", "a service", 1, 1}, {"status", NULL, 0, 0},        {"stop", NULL, 0, 0},
    {"help", NULL, 0, ANY},        {"version", NULL, 0, ANY},
};

enum {
    SETTINGS = sizeof settings / sizeof *settings,
    COMMANDS = sizeof commands / sizeof *commands
};

/* "--grace=5" and "--grace 5"; how many words were used, 0 on failure. */
static int parse_setting(const struct parse *parse, char **argv)
{
    size_t length = strcspn(argv[0], "=");
    for (int i = 0; i < SETTINGS; i++) {
        if (strlen(settings[i].name) != length || strncmp(settings[i].name, argv[0], length) != 0)
            continue;
        bool joined = argv[0][length] == '=';
        if (!settings[i].takes_value && joined)
            return fail(parse, "%s takes no value", settings[i].name);
        const char *value = joined ? argv[0] + length + 1 : argv[1];
        if (settings[i].takes_value && value == NULL)
            return fail(parse, "%s takes a value", settings[i].name);
        parse->given[i] = true;
        return settings[i].set(parse, value) ? 1 + (settings[i].takes_value && !joined) : 0;
    }
    return fail(parse, "unknown option '%s'", argv[0]);
}

static bool was_given(const struct parse *parse, const char *name)
{
    for (int i = 0; i < SETTINGS; i++)
        if (strcmp(settings[i].name, name) == 0)
            return parse->given[i];
    return false;
}

/* What a test leaves is ended soon, and what goes as it should is not logged between the tests. */
static void suit_tests(const struct parse *parse)
{
    if (!was_given(parse, "--grace"))
        parse->options->grace = 1;
    if (!was_given(parse, "--log-level"))
        parse->options->log_level = LOG_WARNING;
}

/* Settings that another command would take are a slip. */
static bool check_settings(const struct parse *parse)
{
    char word[32];
    snprintf(word, sizeof word, " %s ", parse->options->command);
    for (int i = 0; i < SETTINGS; i++)
        if (parse->given[i] && settings[i].commands && !strstr(settings[i].commands, word))
            return fail2(parse, "%s: no such option: %s", parse->options->command,
                         settings[i].name);
    return true;
}

static bool check_command(const struct parse *parse)
{
    const struct options *options = parse->options;
    if (options->command == NULL)
        return fail(parse, "%s", "a command is missing");
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i].name, options->command) != 0)
            continue;
        if (options->count < commands[i].least)
            return fail2(parse, "%s: %s is missing", options->command, commands[i].missing);
        if (options->count > commands[i].most)
            return fail2(parse, "%s: what is '%s'?", options->command,
                         options->words[commands[i].most]);
        if (strcmp(options->command, "test") == 0)
            suit_tests(parse);
        return check_settings(parse);
    }
    return fail(parse, "unknown command '%s'", options->command);
}

/* Words that ask for text instead of work, wherever they stand. */
static const char *asks_for(const char *word)
{
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        return "help";
    return strcmp(word, "--version") == 0 ? "version" : NULL;
}

bool options_parse(struct options *options, int argc, char **argv, char *problem, size_t size)
{
    bool given[SETTINGS] = {false};
    struct parse parse = {options, problem, size, given};
    *options =
        (struct options){.log_level = LOG_INFO, .grace = 10, .timeout = 10, .words = argv + 1};
    int used;
    for (int i = 1; i < argc; i += used) {
        used = 1;
        const char *asked = asks_for(argv[i]);
        if (asked) {
            options->command = asked;
            options->count = 0;
            return true;
        }
        if (argv[i][0] == '-' && argv[i][1] != '\0') {
            used = parse_setting(&parse, argv + i);
            if (used == 0)
                return false;
        } else if (options->command == NULL) {
            options->command = argv[i];
        } else {
            options->words[options->count++] = argv[i];
        }
    }
    return check_command(&parse);
}
