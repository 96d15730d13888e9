local watch = {}
function watch.start() end
function watch.follow() end
function watch.changed() end
return watch
