# Needs the package redis: pip install redis
import json
import os

import redis

bus = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))
channel = f"fanfare:{os.environ.get('NAMESPACE', 'default')}:default:dispatch"


def act(message):
    bus.publish(channel, json.dumps(message))


act({"event": "alert", "data": "Hello", "recipients": ["0", "1"]})
act({"event": "news", "data": {"n": 1}, "recipients": ["*"], "except": ["2"]})
act({"call": "emit", "event": "offer", "filter": "auth.plan == params.plan", "params": {"plan": "free"}})
act({"call": "send", "channel": "room-1", "event": "chat-message", "data": {"message": "Hi"}})
act({"call": "disconnect", "to": {"users": ["2"]}, "reason": "See you"})
