-- A log that connections write to, and give back: files, without waiting for the disk.
--
--   build/skald run examples/15_files.lua log=visits.log
--   echo "Kilroy was here" | nc -N 127.0.0.1 7035      all lines so far, the new one last
--   cp other.log visits.log                            prints "visits.log: changed, 18 bytes now" or the like
--
-- An appender writes in order, and what comes while the disk is busy leaves together; a stop of the host waits until
-- all is in the file. Reading gives a Deferred; one that fails says why, with a code.

local basic = require "skald.basic"
local defer = require "skald.defer"
local fs = require "skald.fs"

local options = ...
local path = options.log or "visits.log"

local Visitor = basic.LineOnlyReceiver { delimiter = "\n" }

-- Up to so many bytes all of the file goes back. It is read by a thread, and nobody else waits for that.
local LARGEST = 1024 * 1024

Visitor.answer = defer.async(function(self)
  defer.await(self.factory.log:flush()) -- the line is in the file now
  self.transport:write(defer.await(fs.readFile(path, { max = LARGEST })))
  self.transport:loseConnection()
end)

function Visitor:lineReceived(line)
  local ok, message = self.factory.log:write(line .. "\n")
  if not ok then
    self.transport:write(message .. "\n") -- the disk is too slow for what comes
    return
  end
  self:answer():addErrback(function(failure)
    self.transport:write(failure.message .. "\n")
    self.transport:loseConnection()
  end)
end

-- "written" is told when whoever wrote closes the file: not of our own lines.
local function changed(change)
  if change.what == "written" then
    fs.stat(path):addCallback(function(status)
      print(("%s: changed, %d bytes now"):format(path, status.size))
    end)
  end
end

return {
  listen = "tcp:127.0.0.1:7035",
  protocol = Visitor,

  -- What this starts ends with the factory, and outlives a reload.
  startFactory = function(self)
    self.log = fs.appender(path)
    assert(fs.watch(path, changed))
  end,
}
