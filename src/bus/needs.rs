//! What Fanfare needs of a server, and what one that is too old, of another kind, or with commands taken away lacks.
//!
//! A script looks, on each connection for commands, before anything is sent there. So it takes no rights but those that
//! the work itself needs, and writes nothing. Without it a server would seem fit until the first call of what it lacks.

use std::sync::LazyLock;

use redis::{FromRedisValue as _, Pipeline, Script, Value, aio::MultiplexedConnection};
use tokio::time::timeout;

use super::connection::Address;
use crate::limits;

/// Each command, with as many arguments as it demands: a user's rights cannot be looked up without them.
const COMMANDS: &[&str] = &[
    "PUBLISH c m",
    "SUBSCRIBE c",
    "UNSUBSCRIBE c",
    "TIME",
    "INFO",
    "GET k",
    "SET k v",
    "DEL k",
    "UNLINK k",
    "EXISTS k",
    "RENAME k k",
    "PEXPIRE k 1",
    "PEXPIREAT k 1",
    "HGET k f",
    "HSET k f v",
    "HDEL k f",
    "HMGET k f",
    "HGETALL k",
    "HSCAN k 0",
    "SADD k m",
    "SREM k m",
    "SMEMBERS k",
    "ZADD k 1 m",
    "ZREM k m",
    "ZSCORE k m",
    "ZRANGE k 0 1",
    "ZREMRANGEBYSCORE k 0 1",
    "XADD k * f v",
    "XDEL k 1-0",
    "XLEN k",
    "XRANGE k - +",
    "XTRIM k MAXLEN 1",
    "XINFO STREAM k",
];

/// The same for the nodes of a Redis Cluster.
const SHARDED: &[&str] = &["SPUBLISH c m", "SSUBSCRIBE c", "SUNSUBSCRIBE c"];

/// Returns what the server lacks of the commands that are its arguments, and of what scripts use.
///
/// Redis 7 and Valkey say whether a command exists. Others are given it without arguments, which does nothing where it
/// demands some, and nothing that is stored where it does not.
static LOOK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local lacks = {}
for _, command in ipairs(ARGV) do
  local words, is_known = {}, true
  for word in string.gmatch(command, '%S+') do
    words[#words + 1] = word
  end
  if redis.acl_check_cmd then
    is_known = pcall(redis.acl_check_cmd, unpack(words))
  else
    local reply = redis.pcall(words[1])
    if type(reply) == 'table' and reply.err then
      is_known = not string.find(string.lower(reply.err), 'unknown')
    end
  end
  if not is_known then
    lacks[#lacks + 1] = words[1]
  end
end
if not pcall(function() return struct.pack('>I8', 1) end) then
  lacks[#lacks + 1] = 'struct.pack in scripts'
end
return lacks
",
    )
});

/// Loads, and is never run: the flags of a script came with Redis 7.
static FLAGGED: LazyLock<Script> =
    LazyLock::new(|| Script::new("#!lua flags=allow-oom\nreturn 1\n"));

/// How many replies [`look`] adds.
const REPLIES: usize = 3;

/// Adds the question to a pipeline that ignores errors.
pub(super) fn look(pipe: &mut Pipeline, is_cluster: bool) {
    pipe.load_script(&FLAGGED);
    pipe.load_script(&LOOK);
    let more = if is_cluster { SHARDED } else { &[] };
    pipe.cmd("EVALSHA")
        .arg(LOOK.get_hash())
        .arg(0)
        .arg(COMMANDS)
        .arg(more);
}

/// What is lacking by the last replies of a pipeline that [`look`] may be in: nothing where it is not known.
pub(super) fn lacking(replies: &[Value]) -> Vec<String> {
    let Some([flagged, loaded, looked]) = replies.last_chunk::<REPLIES>() else {
        return Vec::new();
    };

    let error = |reply: &Value| match reply {
        Value::ServerError(error) => error.details().unwrap_or_default().to_lowercase(),
        _ => String::new(),
    };

    let is_unknown = |reply| error(reply).contains("unknown command");
    if is_unknown(loaded) {
        return vec!["SCRIPT LOAD".to_owned()];
    }
    if is_unknown(looked) {
        return vec!["EVALSHA".to_owned()];
    }

    let mut lacks = Vec::new();
    // A server without flags takes `#!lua` for code, which does not compile.
    if error(flagged).contains("compil") {
        lacks.push("flags of scripts (#!lua flags=…)".to_owned());
    }

    if let Value::Array(_) = looked {
        lacks.extend(Vec::<String>::from_redis_value(looked.clone()).unwrap_or_default());
    }
    lacks
}

/// The sentence for people who have such a server.
pub(super) async fn sentence(
    address: &Address,
    lacks: &[String],
    connection: &mut MultiplexedConnection,
) -> String {
    let mut info = redis::cmd("INFO");
    info.arg("server");
    let asked = timeout(limits::BUS_CONNECT, info.query_async::<String>(connection));
    let server = match asked.await {
        Ok(Ok(info)) => name(&info),
        // What it lacks counts, whatever it is.
        _ => "Redis".to_owned(),
    };
    let lacks = lacks.join(", ");
    format!("{server} at {address} lacks {lacks}; {NEEDED}")
}

/// What to do about it.
pub(super) const NEEDED: &str =
    "Fanfare needs Redis 7 or later, or Valkey, with the commands that docs/guides/redis.md lists";

/// What a server calls itself, and its version, from what INFO says of it.
fn name(info: &str) -> String {
    let field = |name: &str| {
        let lines = &mut info.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };

    // Each of them says that it is some version of Redis too.
    let others = [
        ("Valkey", "valkey_version"),
        ("Dragonfly", "dragonfly_version"),
        ("Garnet", "garnet_version"),
        ("Kvrocks", "kvrocks_version"),
    ];

    for (name, version) in others {
        if let Some(version) = field(version) {
            return format!("{name} {version}");
        }
    }

    let is_keydb = field("executable").is_some_and(|path| path.contains("keydb"))
        || field("mvcc_depth").is_some();
    let name = if is_keydb { "KeyDB" } else { "Redis" };
    format!("{name} {}", field("redis_version").unwrap_or_default())
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As rules and COMMAND INFO have it.
    fn full_name(command: &str) -> String {
        let command = command.replace("XINFO STREAM", "XINFO|STREAM");
        command.split(' ').next().unwrap().to_owned()
    }

    #[test]
    fn servers_are_called_by_their_names() {
        let valkey =
            "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n";
        assert_eq!(name(valkey), "Valkey 9.1.2");
        let keydb = "redis_version:6.3.4\r\nexecutable:/usr/bin/keydb-server\r\n";
        assert_eq!(name(keydb), "KeyDB 6.3.4");
        assert_eq!(
            name("redis_version:6.2.14\r\nexecutable:/x\r\n"),
            "Redis 6.2.14"
        );
        assert_eq!(name(""), "Redis");
    }

    /// A wrong number of arguments where a user's rights are looked up may end the server.
    #[test]
    fn commands_come_with_as_many_arguments_as_redis_demands() {
        let server = crate::bus::tests::server::Server::start(&[]);
        for command in COMMANDS.iter().chain(SHARDED) {
            let words: Vec<&str> = command.split(' ').collect();
            let name = full_name(command);
            let redis::Value::Array(found) = server.ask(&["COMMAND", "INFO", &name]) else {
                panic!("{command}");
            };
            let redis::Value::Array(about) = &found[0] else {
                panic!("{command} is not known");
            };
            let redis::Value::Int(arity) = about[1] else {
                panic!("{command} has no arity");
            };
            let fits = if arity > 0 {
                words.len() as i64 == arity
            } else {
                words.len() as i64 >= -arity
            };
            assert!(fits, "{command}: {arity}");
        }
    }

    /// The rule for nodes in the reference and what is looked for are the same commands.
    #[test]
    fn the_commands_are_those_of_the_rule_for_nodes() {
        let reference = include_str!("../../docs/guides/redis.md");
        let (_, rule) = reference.split_once("\nACL SETUSER fanfare ").unwrap();
        let (rule, _) = rule.split_once("\n```").unwrap();
        let mut allowed: Vec<String> = rule
            .split_whitespace()
            .filter_map(|word| word.strip_prefix('+'))
            .map(str::to_uppercase)
            .collect();
        // The connection itself and the script that looks need these.
        allowed.retain(|command| {
            !["HELLO", "CLIENT|SETNAME", "EVALSHA", "SCRIPT|LOAD"].contains(&&**command)
        });
        allowed.sort();
        let mut looked_for: Vec<String> = COMMANDS
            .iter()
            .chain(SHARDED)
            .map(|command| full_name(command))
            .collect();
        looked_for.sort();
        assert_eq!(allowed, looked_for);
    }
}
