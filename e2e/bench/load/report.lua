-- What every script prints at the end, on one line for a program: requests, failures, microseconds, median and 99th
-- percentile of the latency in microseconds, and wrk's own CPU time in milliseconds.
function done(summary, latency)
  local errors = summary.errors
  local failures = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print(string.format("result %d %d %d %d %d %d", summary.requests, failures, summary.duration,
    latency:percentile(50), latency:percentile(99), os.clock() * 1000))
end
