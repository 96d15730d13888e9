-- Runs busted in this very interpreter: the command's own script would start a second one.
require "busted.runner" { standalone = false }
