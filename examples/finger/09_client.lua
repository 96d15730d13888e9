-- Finger, step 9: ask.
--
--   build/skald run examples/finger/05_answer.lua                      in one terminal
--   build/skald run examples/finger/09_client.lua user=alice           in another one
--   build/skald run examples/finger/09_client.lua user=alice at=tcp:127.0.0.1:7079
--
-- prints "alice is painting the fence", and ends. A client is a protocol as a server is: it is in
-- examples/finger/question.lua, a module that the next step needs, too. Where no server is, the failure
-- says so, and the host ends with 1.

local question = require "question"
local reactor = require "skald.reactor"

local options = ...

reactor.callWhenRunning(function()
  question.ask(options.at or "tcp:127.0.0.1:7079", options.user or ""):addCallbacks(function(answer)
    print(answer)
    reactor.stop()
  end, function(failure)
    io.stderr:write(failure.message, "\n")
    reactor.stop(1)
  end)
end)
