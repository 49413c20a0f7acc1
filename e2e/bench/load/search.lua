-- GET /search/orders by user. Arguments: a name for the run, number of users (each search is about another one in turn).
local run, users
local count = 0

function init(args)
  run, users = args[1], tonumber(args[2])
end

function request()
  count = count + 1
  return wrk.format("GET", "/search/orders?userId=" .. run .. "-" .. count % users)
end

dofile("report.lua")
