-- POST /orders: one piece each, a key of its own for each order, and one of 10,000 users.
-- Arguments: a name for the run, number of SKUs; milliseconds that each connection pauses between orders, on average.
local run, skus, pause
local count = 0

function init(args)
  run, skus, pause = args[1], tonumber(args[2]), tonumber(args[3] or "0")
  math.randomseed(1)
  if pause > 0 then
    function delay()
      return math.random(0, 2 * pause)
    end
  end
end

function request()
  count = count + 1
  local body = string.format('{"skuId":%d,"quantity":1,"userId":"user-%d","idempotencyKey":"%s-%d"}',
    math.random(skus), math.random(10000), run, count)
  return wrk.format("POST", "/orders", {["Content-Type"] = "application/json"}, body)
end

dofile("report.lua")
