std = "luajit"
max_line_length = 120
-- Declarations without bodies are not code.
exclude_files = { "scripts/meta" }
files["tests/**/*_spec.lua"].std = "luajit+busted"
files["scripts/templates/*_spec.lua"].std = "luajit+busted"
files["tests/**/*_spec.lua"].max_line_length = 132
-- Specs that several spec files describe.
files["tests/support/carriers.lua"].std = "luajit+busted"
files["tests/support/carriers.lua"].max_line_length = 132
-- Methods are written as methods there, used or not.
files["examples"].self = false
files["examples/**/*_spec.lua"].std = "luajit+busted"
