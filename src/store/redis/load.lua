-- Reads a token that need not be renewed yet.
--
-- KEYS: the token. ARGV: the time. Answers {found, value, left}: `found` is 0 if there is no token, 2
-- if it cannot be read, else 1; `left` is how long the token stays valid.

local holds = kind(KEYS[1])
if holds == 'none' then
  return {0, false, 0}
elseif holds ~= 'hash' then
  return {2, false, 0}
end
local kept = fields(KEYS[1], LONGEST_TEXT, 'value', 'until') or {}
local till = number(kept[2])
if not kept[1] or not till then
  return {2, false, 0}
elseif till <= now then
  return {0, false, 0}
end
return {1, kept[1], till - now}
