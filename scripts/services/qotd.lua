-- Quote of the day (RFC 865): a quote of at most 512 characters, another each day, then the end.
--   skald run qotd listen=tcp:127.0.0.1:7017 file=quotes.txt
-- In the file, a line with nothing but % stands between quotes.

local texts = require "skald.texts"

local MOST = 512 -- RFC 865

local options = ...
local quotes = {}

local function read(text)
  for quote in (text .. "\n%\n"):gmatch "(.-)\n%%\n" do
    if #quote > MOST then
      error(("a quote is longer than %d characters: %s…"):format(MOST, quote:sub(1, 40)), 0)
    end
    if quote:find "%S" then
      quotes[#quotes + 1] = quote:gsub("%s+$", "") .. "\r\n"
    end
  end
  if #quotes == 0 then
    error("the file has no quote in it", 0)
  end
end

read(options.file and texts.file(options.file) or texts.bundled "quotes.txt")

local Quote = {}

function Quote:connectionMade()
  local day = math.floor(os.time() / 86400)
  self.transport:write(quotes[day % #quotes + 1])
  self.transport:loseConnection()
end

return { listen = "tcp:127.0.0.1:7017", protocol = Quote }
