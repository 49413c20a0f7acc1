-- POST /orders: one piece each, a key of its own for each order, and one of 10,000 users.
-- Arguments: a name for the run, number of SKUs.
local run, skus
local count = 0

function init(args)
  run, skus = args[1], tonumber(args[2])
  math.randomseed(1)
end

function request()
  count = count + 1
  local body = string.format('{"skuId":%d,"quantity":1,"userId":"user-%d","idempotencyKey":"%s-%d"}',
    math.random(skus), math.random(10000), run, count)
  return wrk.format("POST", "/orders", {["Content-Type"] = "application/json"}, body)
end

dofile("report.lua")
