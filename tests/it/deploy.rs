//! The files under deploy/ agree with the server: its times, its bounds, its variables.
use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use fanfare::{
    config::{ApiKeyConfig, AppConfig, Config, Scopes, ServeArgs},
    limits::Limits,
};
use ipnet::IpNet;
use serde_yaml_ng::{Deserializer, Value};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The documents of a YAML file, with merge keys resolved.
fn yaml(name: &str) -> Vec<Value> {
    let document = |document| {
        let mut value = <Value as serde::Deserialize>::deserialize(document).unwrap();
        value.apply_merge().unwrap();
        value
    };
    Deserializer::from_str(&read(name)).map(document).collect()
}

/// The value behind `key` on a line of its own, without what ends the line.
fn setting<'t>(text: &'t str, key: &str) -> &'t str {
    let mut found = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix(key))
        .map(|rest| rest.trim_start_matches(['=', ' ']).trim_end_matches(';'));
    found.next().unwrap_or_else(|| panic!("no {key}"))
}

fn duration(text: &str) -> Duration {
    humantime::parse_duration(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// A server with a key, as deployments have it.
fn deployed() -> Config {
    let key = ApiKeyConfig::from_plain(
        "functions",
        &"a-key-of-16-bytes-or-more".into(),
        Scopes::ALL,
    );
    let app = AppConfig {
        keys: vec![key.unwrap()],
        ..AppConfig::default()
    };
    Config {
        apps: BTreeMap::from([("default".to_owned(), app)]),
        ..Config::default()
    }
}

/// How long a node may take to leave, by its own settings.
fn leaving() -> Duration {
    deployed().drain_delay() + deployed().drain_timeout
}

/// How long the rest of a system has to notice that a node is not ready.
fn notice() -> Duration {
    deployed().drain_delay()
}

#[test]
fn nothing_is_killed_while_it_leaves() {
    let margin = Duration::from_secs(5);
    let systemd = duration(setting(&read("fanfare.service"), "TimeoutStopSec"));
    assert!(systemd >= leaving() + margin, "{systemd:?}");

    let compose = &yaml("compose.yaml")[0];
    for node in ["node-1", "node-2", "node-3"] {
        let grace = compose["services"][node]["stop_grace_period"].as_str();
        let grace = duration(grace.unwrap_or_else(|| panic!("{node} has no stop_grace_period")));
        assert!(grace >= leaving() + margin, "{node}: {grace:?}");
    }

    let pod = &yaml("kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"];
    let grace = Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap());
    assert!(grace >= leaving() + margin, "{grace:?}");
}

#[test]
fn a_leaving_node_is_noticed_before_it_refuses_anyone() {
    let haproxy = read("haproxy.cfg");
    // By both backends: while Redis is away, too.
    let defaults = haproxy
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("default-server "));
    let defaults: Vec<Vec<&str>> = defaults
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        defaults.len(),
        haproxy.matches("\n    option httpchk GET /readyz").count()
    );
    for words in defaults {
        let word = |name: &str| words[words.iter().position(|word| *word == name).unwrap() + 1];
        let fall: u32 = word("fall").parse().unwrap();
        let seen = duration(word("inter")) * fall + duration(setting(&haproxy, "timeout check"));
        assert!(seen < notice(), "HAProxy: {seen:?}");
    }

    let container =
        &yaml("kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]["containers"][0];
    let probe = |name: &str, field: &str| container[name][field].as_u64().unwrap();
    let readiness = |field| probe("readinessProbe", field);
    let seen =
        readiness("periodSeconds") * readiness("failureThreshold") + readiness("timeoutSeconds");
    assert!(Duration::from_secs(seen) < notice(), "Kubernetes: {seen} s");
    // Of the node alone: no outage of Redis takes all pods away at once. A pod that never reached it takes no one's place.
    assert_eq!(
        container["readinessProbe"]["httpGet"]["path"],
        "/readyz?scope=node"
    );
    assert_eq!(container["startupProbe"]["httpGet"]["path"], "/readyz");
    // A node that leaves is alive.
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/livez");
    assert!(read("Dockerfile").contains("http://127.0.0.1:7070/livez"));
}

#[test]
fn no_balancer_cuts_what_the_server_keeps() {
    let limits = Limits::default();
    let silence = limits.heartbeat + limits.heartbeat_wait;
    let (haproxy, nginx) = (read("haproxy.cfg"), read("nginx.conf"));
    assert!(duration(setting(&haproxy, "timeout tunnel")) > 2 * silence);
    assert!(duration(setting(&nginx, "proxy_read_timeout")) > 2 * silence);
    assert!(duration(setting(&nginx, "proxy_send_timeout")) > 2 * silence);
    // Whoever keeps a connection longer than the server sends a request into its end. Clouds' balancers keep one for 600 s.
    let cloud = Duration::from_mins(10);
    assert!(duration(setting(&haproxy, "timeout http-keep-alive")) > cloud);
    assert!(limits.http_idle > cloud);
    let (upstream, listener) = nginx.split_once("listen 80").unwrap();
    assert!(duration(setting(listener, "keepalive_timeout")) > cloud);
    assert!(duration(setting(upstream, "keepalive_timeout")) < limits.http_idle);
    assert!(duration(setting(&haproxy, "timeout http-keep-alive")) < limits.http_idle);
    assert!(duration(setting(&haproxy, "timeout server")) < limits.http_idle);
    assert!(duration(setting(&nginx, "keepalive_timeout")) < limits.http_idle);
    assert_eq!(setting(&nginx, "client_max_body_size"), "1m");
    assert!(limits.body_bytes <= 1024 * 1024);
    // The server's own words about a head that takes too long are the ones that count.
    assert!(duration(setting(&haproxy, "timeout http-request")) > limits.handshake);
}

#[test]
fn balancers_replace_what_clients_say_of_themselves_and_log_no_query() {
    let (haproxy, nginx) = (read("haproxy.cfg"), read("nginx.conf"));
    assert!(haproxy.contains("http-request set-header X-Forwarded-For %[src]"));
    assert!(!haproxy.contains("option forwardfor"));
    assert_eq!(
        setting(&nginx, "proxy_set_header X-Forwarded-For"),
        "$remote_addr"
    );
    let format = setting(&haproxy, "log-format");
    assert!(
        format.contains("%HP")
            && !["%HU", "%HQ", "%r", "%{+Q}r"]
                .iter()
                .any(|query| format.contains(query))
    );
    assert!(!haproxy.contains("option httplog"));
    let format = setting(&nginx, "log_format");
    assert!(
        format.contains("$uri")
            && !["$request ", "$request_uri", "$args"]
                .iter()
                .any(|q| format.contains(q))
    );
}

/// The variables of the server in a list of them, as it would get them: what is mounted as a file is one here.
fn accepted(variables: Vec<(String, String)>, is_mounted: impl Fn(&str) -> bool) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "secrets-{}-{}",
        std::process::id(),
        variables.len()
    ));
    fs::create_dir_all(&folder).unwrap();
    let mut files = 0;
    let variables = variables.into_iter().map(|(name, value)| {
        if !name.ends_with("_FILE") {
            return (name, value);
        }
        assert!(is_mounted(&value), "{name}: nothing is mounted at {value}");
        files += 1;
        let file = folder.join(&name);
        let secret = if name == "FANFARE_REDIS_FILE" {
            "redis://:a-password@redis:6379\n"
        } else {
            "a-secret-of-at-least-32-bytes-000\n"
        };
        fs::write(&file, secret).unwrap();
        (name, file.to_str().unwrap().to_owned())
    });
    let config =
        Config::load(&ServeArgs::default(), variables).unwrap_or_else(|error| panic!("{error}"));
    fs::remove_dir_all(&folder).unwrap();
    config.check().unwrap_or_else(|error| panic!("{error}"));
    assert!(!config.is_loopback() && !config.trusted_proxies.is_empty());
    let app = &config.apps["default"];
    assert!(app.keys.len() == 1 && app.tokens.len() == 1 && config.redis.is_some());
    assert!(files >= 2, "secrets are files");
}

#[test]
fn the_server_knows_every_variable_it_is_given() {
    let own = |name: &str| name.starts_with("FANFARE_");
    for node in ["node-1", "node-2", "node-3"] {
        let environment = &yaml("compose.yaml")[0]["services"][node]["environment"];
        let all = environment.as_mapping().unwrap().iter();
        let all = all.map(|(name, value)| {
            (
                name.as_str().unwrap().to_owned(),
                value.as_str().unwrap().to_owned(),
            )
        });
        let secrets = &yaml("compose.yaml")[0]["secrets"];
        let given = yaml("compose.yaml")[0]["services"][node]["secrets"].clone();
        let given = given.as_sequence().unwrap();
        accepted(all.filter(|(name, _)| own(name)).collect(), |path| {
            let name = path.strip_prefix("/run/secrets/").unwrap();
            given.iter().any(|given| given == name) && !secrets[name]["file"].is_null()
        });
    }
    let container =
        &yaml("kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"]
        .as_sequence()
        .unwrap()
        .iter()
        .map(|variable| {
            let name = variable["name"].as_str().unwrap();
            let value = match (
                variable["value"].as_str(),
                variable["valueFrom"]["fieldRef"].is_null(),
            ) {
                (Some(value), _) => value,
                (None, false) => "fanfare-7c9d-x2x4z",
                (None, true) => panic!("{name} is a secret in a variable"),
            };
            (name.to_owned(), value.to_owned())
        });
    let mount = &container["volumeMounts"][0];
    let volume = &yaml("kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]["volumes"][0];
    assert_eq!(mount["name"], volume["name"]);
    assert_eq!(volume["secret"]["secretName"], "fanfare");
    // As `kubectl create secret` in deploy/README.md names them.
    accepted(variables.filter(|(name, _)| own(name)).collect(), |path| {
        let folder = mount["mountPath"].as_str().unwrap();
        let name = path.strip_prefix(folder).unwrap().trim_start_matches('/');
        read("README.md").contains(&format!("--from-literal={name}="))
    });
    assert_eq!(container["args"][0], "serve");
}

#[test]
fn kubernetes_objects_belong_together() {
    let deployment = &yaml("kubernetes/deployment.yaml")[0];
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let service = &yaml("kubernetes/service.yaml")[0];
    let budget = &yaml("kubernetes/disruption-budget.yaml")[0];
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&service["spec"]["selector"], labels);
    assert_eq!(&budget["spec"]["selector"]["matchLabels"], labels);
    let ports = deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
        .as_sequence()
        .unwrap();
    let target = &service["spec"]["ports"][0]["targetPort"];
    assert!(
        ports.iter().any(|port| port["name"] == *target),
        "{target:?}"
    );
    let kinds = [deployment, service, budget].map(|object| object["kind"].as_str().unwrap());
    assert_eq!(kinds, ["Deployment", "Service", "PodDisruptionBudget"]);
}

/// Runs a checker that is not everywhere; what it says, if it is here.
fn checked(command: &mut Command) -> Option<(bool, String)> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    Some((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

#[test]
fn nothing_gives_up_restarting_a_node() {
    // Restarts that soon reach systemd's own bound of 5 in 10 s.
    assert_eq!(
        setting(&read("fanfare.service"), "StartLimitIntervalSec"),
        "0"
    );
    for (name, service) in yaml("compose.yaml")[0]["services"].as_mapping().unwrap() {
        assert_eq!(service["restart"], "unless-stopped", "{name:?}");
    }
}

#[test]
fn nobody_else_is_given_the_address_that_nodes_believe() {
    let compose = &yaml("compose.yaml")[0];
    let proxy = &compose["services"]["haproxy"]["networks"]["default"]["ipv4_address"];
    let proxy: IpAddr = proxy.as_str().unwrap().parse().unwrap();
    let network = |name: &str| -> IpNet {
        compose["networks"]["default"]["ipam"]["config"][0][name]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    };
    assert!(network("subnet").contains(&proxy) && !network("ip_range").contains(&proxy));
    let trusted = &compose["services"]["node-1"]["environment"]["FANFARE_TRUSTED_PROXY"];
    assert_eq!(trusted.as_str().unwrap(), format!("{proxy}/32"));
}

#[test]
fn what_redis_keeps_for_compose_outlives_it() {
    let redis = &yaml("compose.yaml")[0]["services"]["redis"];
    let words: Vec<&str> = redis["command"]
        .as_sequence()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    let word = |name: &str| words[words.iter().position(|word| *word == name).unwrap() + 1];
    // Stored events are promised to arrive, and nothing is evicted without a word.
    assert_eq!(
        (word("--appendonly"), word("--appendfsync")),
        ("yes", "everysec")
    );
    assert_eq!(word("--maxmemory-policy"), "noeviction");
    assert!(words.contains(&"--maxmemory"));
    let volume = redis["volumes"][0].as_str().unwrap();
    let (name, folder) = volume.split_once(':').unwrap();
    assert_eq!(folder, "/data");
    assert!(
        yaml("compose.yaml")[0]["volumes"]
            .as_mapping()
            .unwrap()
            .contains_key(name),
        "{name}"
    );
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("unit-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let unit =
        read("fanfare.service").replace("/usr/local/bin/fanfare", env!("CARGO_BIN_EXE_fanfare"));
    let file = folder.join("fanfare.service");
    fs::write(&file, unit).unwrap();
    let verified = checked(Command::new("systemd-analyze").arg("verify").arg(&file));
    fs::remove_dir_all(&folder).unwrap();
    if let Some((good, said)) = verified {
        assert!(good && !said.contains("fanfare.service:"), "{said}");
    }
}

/// Checks the configuration with nodes called `host` and a port each; what `HAProxy` says.
fn haproxy_checks(host: &str) -> (bool, String) {
    let programs = ["haproxy", "/usr/sbin/haproxy"];
    let check = |program: &str| {
        let mut command = Command::new(program);
        command
            .args(["-c", "-f"])
            .arg(path("haproxy.cfg"))
            .env("BIND", "127.0.0.1:8080");
        for n in 1..=3 {
            command.env(format!("NODE_{n}"), format!("{host}:{n}"));
        }
        checked(&mut command)
    };
    programs
        .iter()
        .find_map(|program| check(program))
        .expect("haproxy (see make setup-test)")
}

#[test]
fn haproxy_takes_its_configuration_as_it_is() {
    let (good, said) = haproxy_checks("127.0.0.1");
    // A machine without name servers needs none for addresses.
    let warnings = said
        .lines()
        .filter(|line| line.contains("WARNING") && !line.contains("no nameservers"));
    assert!(good && warnings.count() == 0, "{said}");
}

#[test]
fn haproxy_starts_without_nodes_whose_names_are_not_there_yet() {
    let (good, said) = haproxy_checks("node.invalid");
    assert!(good && said.contains("could not resolve address"), "{said}");
}
