-- Units of a rate come back, as far as they are still owed.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local owed = tonumber(redis.call('GET', KEYS[1]) or '0') - now
local left = owed - tonumber(ARGV[3]) * tonumber(ARGV[2]) / tonumber(ARGV[1])
if owed <= 0 then return 0 end
if left <= 0 then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], string.format('%.0f', math.ceil(now + left)), 'PX', math.ceil(left / 1000) + tonumber(ARGV[4]))
return 1
