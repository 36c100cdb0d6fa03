-- A rate, as the virtual scheduling form of GCRA in microseconds: `need` or none, up to `want`.
-- {granted, microseconds until `need` is there; -1: never}
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local amount, period, burst, need, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local each = period / amount
local owed = math.max(tonumber(redis.call('GET', KEYS[1]) or '0') - now, 0)
local room = math.floor((burst * each - owed) / each + 0.000001)
if room < need then
  if need > burst then return {0, -1} end
  return {0, math.ceil(owed + need * each - burst * each)}
end
local granted = math.min(room, want)
owed = owed + granted * each
redis.call('SET', KEYS[1], string.format('%.0f', math.ceil(now + owed)), 'PX', math.ceil(owed / 1000) + tonumber(ARGV[6]))
return {granted, 0}
