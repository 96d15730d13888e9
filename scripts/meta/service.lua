---@meta skald.service
-- What each service gets of its own when it requires skald.service: made at run time, by loader.lua.
-- tests/unit/annotations_spec.lua holds this against that.

--- A script's own service: its name, its options, and what of it survives a reload.
---@class skald.service
local service = {}

--- The service's name.
---@type string
service.name = ""

--- The options from the command line: `key=value` words as strings, by their keys.
---@type table<string, string>
service.options = {}

--- A value that survives reloads.
---@generic T
---@param name string of the value, within the service
---@param init T|fun(): T makes it, or is it: once for the life of the service
---@return T value
function service.persist(name, init) end

--- Has `f()` called when this load of the service ends: at a reload, or when the service stops.
---@param f function
function service.onDispose(f) end

return service
