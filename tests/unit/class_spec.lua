local class = require "skald.class"

describe("class", function()
  it("derives when it is called, and makes instances with new", function()
    local Animal = class.root "Animal"
    local Dog = Animal { sound = "woof" }
    function Dog:init(name)
      self.name = name
    end
    local rex = Dog:new "Rex"
    assert.equal("Rex", rex.name)
    assert.equal("woof", rex.sound)
    assert.equal(Dog, class.of(rex))
    assert.is_true(class.derives(Dog, Animal))
    assert.is_false(class.derives(Animal, Dog))
  end)

  it("copies the parts of a class call from left to right", function()
    local Base = class.root "Base"
    local Derived = Base({ a = 1, b = 1 }, { b = 2, c = 2 }, { c = 3 })
    assert.same({ 1, 2, 3 }, { Derived.a, Derived.b, Derived.c })
  end)

  it("takes the methods of a mixin that is a class itself", function()
    local Base, Mixin = class.root "Base", class.root("Mixin", { greet = function() return "hi" end })
    local Derived = Base(Mixin, { other = true })
    assert.equal("hi", Derived:new():greet())
    assert.is_false(class.derives(Derived, Mixin))
  end)

  it("sees methods added to a class after its instances were made", function()
    local Base = class.root "Base"
    local Derived = Base {}
    local object = Derived:new()
    function Base.late()
      return "late"
    end
    assert.equal("late", object:late())
  end)

  it("lets metamethods written in a class work for its instances and those of derived classes", function()
    local Point = class.root "Point"
    function Point:__tostring()
      return "point " .. self.x
    end
    local Pixel = Point {}
    function Pixel:init(x)
      self.x = x
    end
    assert.equal("point 7", tostring(Pixel:new(7)))
    local Sum = class.root("Sum", { __add = function(a, b) return a.n + b.n end })
    local one, two = Sum:new(), Sum:new()
    one.n, two.n = 1, 2
    assert.equal(3, one + two)
  end)

  it("raises at the caller's line when it is called with what is no table", function()
    local Base = class.root "Base"
    local ok, message = pcall(function()
      local _ = Base(7)
    end)
    assert.is_false(ok)
    assert.matches("class_spec.lua:%d+: a class is derived from tables, not from a number", message)
  end)

  it("adopts a plain table as a class, in place, and only once", function()
    local Base = class.root("Base", { inherited = true })
    local plain = { own = true }
    assert.equal(plain, class.adopt(plain, Base))
    assert.equal(plain, class.adopt(plain, class.root "Other"))
    local object = plain:new()
    assert.is_true(object.own and object.inherited)
  end)

  it("does not adopt a table that has a metatable of its own", function()
    assert.has_error(function()
      class.adopt(setmetatable({}, {}), class.root "Base")
    end)
  end)

  it("tells classes, instances and other values apart", function()
    local Base = class.root "Base"
    assert.is_true(class.is(Base))
    for _, value in ipairs { Base:new(), {}, "text", 7, setmetatable({}, { __index = {} }) } do
      assert.is_false(class.is(value))
    end
    assert.is_nil(class.of(Base))
    assert.is_nil(class.of {})
    assert.is_nil(class.of "text")
  end)

  it("gives a named class when it is called with a name", function()
    local Room = class "Room"
    assert.is_true(class.is(Room))
    assert.equal(Room, class.of(Room:new()))
    assert.has_error(function()
      class {}
    end)
  end)

  it("gives the objects of a class to another, with its methods and metamethods", function()
    local Old = class.root "Old" { __tostring = function() return "old" end, greet = function() return "hi" end }
    local New = class.root "New" { greet = function() return "hello" end }
    local object = Old:new()
    class.succeed(Old, New, true)
    assert.equal("hello", object:greet())
    assert.equal(New, class.of(object))
    assert.falsy(tostring(object) == "old")
    assert.equal(getmetatable(object), getmetatable(New:new()))
  end)

  it("gives on what was given to it, and what was made before", function()
    local First, Second, Third = class.root "A", class.root "B", class.root "C"
    local a, b = First:new(), Second:new()
    class.succeed(First, Second, true)
    class.succeed(Second, Third, true)
    assert.equal(Third, class.of(a))
    assert.equal(Third, class.of(b))
    function Third.__tostring()
      return "third"
    end
    assert.same({ "third", "third" }, { tostring(a), tostring(b) })
  end)

  it("lets a method that is gone fall back to the base", function()
    local Base = class.root("Base", { greet = function() return "base" end })
    local Old = Base { greet = function() return "old" end }
    local object = Old:new()
    class.succeed(Old, Base {}, true)
    assert.equal("base", object:greet())
  end)

  it("notes the classes that are made while it observes", function()
    local set = {}
    local before = class.observe(set)
    local Made = class.root "Made" {}
    class.observe(before)
    local Other = class.root "Other"
    assert.same({ true, nil }, { set[Made], set[Other] })
  end)
end)
