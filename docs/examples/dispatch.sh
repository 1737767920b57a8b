#!/bin/sh
# Needs redis-cli (Debian's package redis-tools).
set -eu

act() {
    redis-cli -u "${REDIS_URL:-redis://127.0.0.1:6379}" PUBLISH "fanfare:${NAMESPACE:-default}:default:dispatch" "$1"
}

act '{"event": "alert", "data": "Hello", "recipients": ["0", "1"]}'
act '{"event": "news", "data": {"n": 1}, "recipients": ["*"], "except": ["2"]}'
act '{"call": "emit", "event": "offer", "filter": "auth.plan == params.plan", "params": {"plan": "free"}}'
act '{"call": "send", "channel": "room-1", "event": "chat-message", "data": {"message": "Hi"}}'
act '{"call": "disconnect", "to": {"users": ["2"]}, "reason": "See you"}'
