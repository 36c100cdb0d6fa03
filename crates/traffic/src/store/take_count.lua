-- A count that ends with its window: {granted, microseconds until the window ends; -1: never}
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local amount, ends, need, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local room = amount - tonumber(redis.call('GET', KEYS[1]) or '0')
if room < need then
  if need > amount then return {0, -1} end
  return {0, math.max(ends * 1000000 - now, 0)}
end
local granted = math.min(room, want)
redis.call('INCRBY', KEYS[1], string.format('%.0f', granted))
redis.call('EXPIREAT', KEYS[1], ends + 3600)
return {granted, 0}
