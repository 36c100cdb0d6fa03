-- What is taken at a time. Each gateway has a field "count:until"; one that is not heard of in time has crashed, and its places are free.
-- A store that forgot a gateway takes its word for what it has, and so does any that is told by one that is certain: an answer that was lost
-- leaves no place taken.
-- {granted, microseconds until it may be worth asking again; -1: it never fits}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local mine, lives = ARGV[1], tonumber(ARGV[2])
local certain = ARGV[8] == '1'
local amount, held, need, want, back = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local own, others = held, 0
local fields = redis.call('HGETALL', KEYS[1])
for at = 1, #fields, 2 do
  local count, till = string.match(fields[at + 1], '^(%d+):(%d+)$')
  if fields[at] == mine then
    if not certain then own = tonumber(count) end
  elseif tonumber(till) < now then
    redis.call('HDEL', KEYS[1], fields[at])
  else
    others = others + tonumber(count)
  end
end
own = math.max(own - back, 0)
local granted = math.max(math.min(amount - own - others, want), 0)
if granted < need then granted = 0 end
redis.call('HSET', KEYS[1], mine, string.format('%.0f:%.0f', own + granted, now + lives))
redis.call('PEXPIRE', KEYS[1], lives)
if need > amount then return {0, -1} end
return {granted, 1000000}
