-- The report of a change: what was asked of it, what came of it and why, as `skald reload --json` prints it.

local report = {}

--- Of a change that is yet to be made.
---@param service table
---@return table
function report.new(service)
  local number = service.generation and service.generation.number or 0
  return {
    service = service.name,
    from = number,
    generation = number,
    modules = { changed = {}, added = {}, removed = {} },
    endpoints = { kept = {}, added = {}, removed = {} },
    classes = { switched = {}, stayed = {} },
    kept = {},
    instances = 0,
    timers = { ended = 0, left = 0 },
    pause_us = 0,
    stall_us = 0,
    phases = {},
    warnings = {},
    errors = {},
  }
end

local function namesOf(set)
  local list = {}
  for name in pairs(set) do
    list[#list + 1] = name or nil
  end
  table.sort(list)
  return list
end

-- Which files came, went and changed.
local function addModules(change)
  local modules, new = change.report.modules, change.generation.sources
  local old = change.former and change.former.sources or {}
  local changed, added, removed = {}, {}, {}
  for path, source in pairs(new) do
    if not old[path] then
      added[path] = true
    elseif old[path].text ~= source.text then
      changed[path] = true
    end
  end
  for path in pairs(old) do
    removed[path] = not new[path] or nil
  end
  modules.changed, modules.added, modules.removed = namesOf(changed), namesOf(added), namesOf(removed)
end

-- What became of classes and values.
local function addPlan(change)
  local made, plan = change.report, change.plan
  for _, pairing in ipairs(plan.classes) do
    table.insert(made.classes.switched, pairing.name)
  end
  local stayed = {}
  for _, name in pairs(plan.stayed) do
    stayed[name] = true
  end
  made.classes.stayed = namesOf(stayed)
  plan.kept[false] = nil
  made.kept = namesOf(plan.kept)
  for _, warning in ipairs(plan.warnings) do
    table.insert(made.warnings, warning)
  end
end

--- Completes that of a change that was committed.
---@param change Change
function report.complete(change)
  local made, generation = change.report, change.generation
  made.result = "committed"
  made.generation = generation.number
  for _, item in ipairs(generation.obtained) do
    table.insert(made.endpoints[item.fresh and "added" or "kept"], tostring(item.listener))
  end
  addModules(change)
  for _, warning in ipairs(generation.warnings) do
    table.insert(made.warnings, warning)
  end
  if change.plan then
    addPlan(change)
  end
  if change.failed then
    table.insert(made.warnings, (change.failed:match "^[^\n]*"))
  end
end

return report
