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
};

static bool fail(const struct parse *parse, const char *text, const char *word)
{
    snprintf(parse->problem, parse->size, text, word);
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

static bool set_grace(const struct parse *parse, const char *value)
{
    char *end;
    double grace = strtod(value, &end);
    if (end == value || *end != '\0' || !(grace >= 0) || !isfinite(grace))
        return fail(parse, "--grace: '%s' is no number of seconds", value);
    parse->options->grace = grace;
    return true;
}

static bool set_jit(const struct parse *parse, const char *value)
{
    parse->options->jit = value;
    return true;
}

static bool set_later(const struct parse *parse, const char *value)
{
    (void)value;
    return fail(parse, "%s: not in this version", "--control");
}

/*  option        takes a value and gives it to */
static const struct {
    const char *name;
    bool (*set)(const struct parse *parse, const char *value);
} settings[] = {
    {"--log-level", set_log_level},
    {"--grace", set_grace},
    {"--jit", set_jit},
    {"--control", set_later},
};

/*  command       least words, whether this version has it */
static const struct {
    const char *name;
    int words;
    bool here;
} commands[] = {
    {"run", 1, true},     {"check", 1, true}, {"help", 0, true},    {"version", 0, true},
    {"reload", 0, false}, {"load", 0, false}, {"unload", 0, false}, {"status", 0, false},
    {"stop", 0, false},   {"test", 0, false}, {"new", 0, false},
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
        const char *value = argv[0][length] == '=' ? argv[0] + length + 1 : argv[1];
        if (value == NULL)
            return fail(parse, "%s takes a value", settings[i].name);
        return settings[i].set(parse, value) ? (argv[0][length] == '=' ? 1 : 2) : 0;
    }
    return fail(parse, "unknown option '%s'", argv[0]);
}

static bool check_command(const struct parse *parse)
{
    const struct options *options = parse->options;
    if (options->command == NULL)
        return fail(parse, "%s", "a command is missing");
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i].name, options->command) != 0)
            continue;
        if (!commands[i].here)
            return fail(parse, "%s: not in this version", options->command);
        if (options->count < commands[i].words)
            return fail(parse, "%s: a script is missing", options->command);
        return true;
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
    struct parse parse = {options, problem, size};
    *options = (struct options){.log_level = LOG_INFO, .grace = 10, .words = argv + 1};
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
