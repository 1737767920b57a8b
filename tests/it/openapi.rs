//! docs/openapi.json is the API: what it describes is what the server takes, in every client that is made from it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use fanfare::config::ChannelRule;
use serde_json::{Value, json};

use crate::support::*;

const DESCRIPTION: &str = include_str!("../../docs/openapi.json");

/// Words of the parser that no caller should have to know.
const FOREIGN: [&str; 8] = [
    "invalid type",
    "invalid value",
    "expected",
    "sequence",
    "variant",
    " map",
    "at line",
    "`",
];

fn described() -> Value {
    serde_json::from_str(DESCRIPTION).unwrap()
}

/// What `schema` refers to, or itself.
fn resolved<'a>(api: &'a Value, schema: &'a Value) -> &'a Value {
    schema["$ref"].as_str().map_or(schema, |path| {
        api.pointer(path.trim_start_matches('#')).unwrap()
    })
}

/// A value of every kind of JSON.
fn kinds() -> [Value; 9] {
    [
        json!(null),
        json!(true),
        json!(7),
        json!(7.5),
        json!("text"),
        json!([]),
        json!([null]),
        json!([7]),
        json!({}),
    ]
}

/// Whether `schema` allows values of the kind of `value`.
fn allows(api: &Value, schema: &Value, value: &Value) -> bool {
    let schema = resolved(api, schema);
    if let Some(alternatives) = schema["oneOf"].as_array() {
        return alternatives.iter().any(|one| allows(api, one, value));
    }
    match schema["type"].as_str() {
        None => true,
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64(),
        Some("object") => value.is_object(),
        Some("array") => value
            .as_array()
            .is_some_and(|items| items.iter().all(|item| allows(api, &schema["items"], item))),
        Some(other) => panic!("a field of the type {other}"),
    }
}

/// Every field of `schema` at any depth: its path, and a value of each kind that it does not allow.
fn wrong_values(api: &Value, schema: &Value) -> Vec<(Vec<String>, Value)> {
    let mut wrong = Vec::new();
    for (name, field) in resolved(api, schema)["properties"].as_object().unwrap() {
        let kinds = kinds()
            .into_iter()
            .filter(|value| !allows(api, field, value));
        wrong.extend(kinds.map(|value| (vec![name.clone()], value)));
        if resolved(api, field)["properties"].is_object() {
            for (mut path, value) in wrong_values(api, field) {
                path.insert(0, name.clone());
                wrong.push((path, value));
            }
        }
    }
    wrong
}

/// `body` with `value` at `path`, where objects are made as needed.
fn with(body: &Value, path: &[String], value: &Value) -> Value {
    let mut changed = body.clone();
    let mut at = &mut changed;
    for name in path {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[name];
    }
    *at = value.clone();
    changed
}

/// Every call that takes a body: its path, its schema, and an example.
fn bodies(api: &Value) -> Vec<(String, Value, Value)> {
    let calls = api["paths"].as_object().unwrap().iter();
    let bodies = calls.filter_map(|(path, methods)| {
        let content = &methods["post"]["requestBody"]["content"]["application/json"];
        let example = content["example"].clone();
        (!content.is_null()).then(|| (path.clone(), content["schema"].clone(), example))
    });
    bodies.collect()
}

/// Expects that `problem` names the field at `path`, in words that its caller knows.
fn expect_named(problem: &Value, path: &[String], body: &Value) {
    assert_eq!(problem["status"], 400, "{body}: {problem}");
    let detail = problem["detail"].as_str().unwrap();
    let path = path.join(".");
    assert!(
        detail.contains(&format!("\"{path}\"")) || detail.contains(&format!("\"{path}[0]\"")),
        "{body}: {detail}"
    );
    for word in FOREIGN {
        assert!(!detail.contains(word), "{body}: {detail}");
    }
}

#[test]
fn the_server_serves_the_description_of_the_repository() {
    let served = server().get("/v1/openapi.json").text;
    assert_eq!(served, DESCRIPTION);
}

#[test]
fn every_field_refuses_null_and_other_kinds_by_its_name() {
    let (api, server) = (described(), server());
    let mut tried = 0;
    for (call, schema, example) in bodies(&api) {
        for (path, value) in wrong_values(&api, &schema) {
            // A wrong item fails by itself.
            if call == "/v1/batch" && value.is_array() {
                continue;
            }
            let body = with(&example, &path, &value);
            let answer = server.post(&call, &body);
            assert_eq!(answer.status, 400, "{call} {body}: {answer:?}");
            expect_named(&answer.json(), &path, &body);
            tried += 1;
        }
    }
    assert!(tried > 500, "{tried}");
}

#[test]
fn every_field_of_an_item_refuses_null_and_other_kinds_by_its_name() {
    let (api, server) = (described(), server());
    let mapping = &api["components"]["schemas"]["BatchItem"]["discriminator"]["mapping"];
    for (call, schema) in mapping.as_object().unwrap() {
        let mut example = bodies(&api)
            .into_iter()
            .find_map(|(path, _, example)| (path == format!("/v1/{call}")).then_some(example))
            .unwrap();
        example["call"] = json!(call);
        for (path, value) in wrong_values(&api, &json!({ "$ref": schema })) {
            let item = with(&example, &path, &value);
            let answer = server.call("/v1/batch", &json!({ "items": [item] }));
            expect_named(&answer["results"][0]["error"], &path, &item);
        }
    }
}

#[test]
fn every_body_takes_the_fields_of_its_schema_and_no_others() {
    let (api, server) = (described(), server());
    for (call, schema, example) in bodies(&api) {
        let answer = server.post(
            &call,
            &with(&example, &["quetzalcoatl".to_owned()], &json!(1)),
        );
        assert_eq!(answer.code(), "unknown_field", "{call}");
        expect_listed(
            &answer,
            resolved(&api, &schema)["properties"]
                .as_object()
                .unwrap()
                .keys(),
        );
    }
}

#[test]
fn every_query_takes_the_parameters_of_its_description_and_no_others() {
    let (api, server) = (described(), server_with_history());
    let mut tried = 0;
    for (path, methods) in api["paths"].as_object().unwrap() {
        let parameters = methods["get"]["parameters"].as_array();
        let queries = parameters
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "query");
        let names: Vec<String> = queries
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect();
        if names.is_empty() || path == "/v1/connect" {
            continue;
        }
        let answer = server.get(&format!(
            "{}?quetzalcoatl=1",
            path.replace("{channel}", "room-1")
        ));
        assert_eq!(answer.code(), "unknown_field", "{path}");
        expect_listed(&answer, names.iter());
        tried += 1;
    }
    assert_eq!(tried, 5);
}

/// Expects that a refusal of an unknown name lists `names`.
fn expect_listed<'a>(answer: &Answer, names: impl Iterator<Item = &'a String>) {
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    let (_, listed) = detail
        .split_once("this call takes ")
        .unwrap_or_else(|| panic!("{detail}"));
    let mut listed: Vec<&str> = listed.split(", ").collect();
    let mut names: Vec<&str> = names.map(String::as_str).collect();
    listed.sort_unstable();
    names.sort_unstable();
    assert_eq!(listed, names, "{detail}");
}

fn server_with_history() -> TestServer {
    server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.channels.push(ChannelRule::new("room-*", 100));
    })
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi")
}

fn description() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json")
}

/// Runs `command` to its end.
fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| {
        panic!("{command:?} does not run ({error}): make setup-test installs it")
    })
}

fn expect_success(output: &Output, what: &str) -> String {
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{what} (make setup-test installs what it needs):\n{out}\n{error}"
    );
    out.into_owned()
}

#[test]
fn types_made_from_the_description_compile_a_call_of_each_kind() {
    let server = keyed_server(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.channels.push(ChannelRule::new("room-*", 100));
    });

    // Beside the packages, but not in the source tree.
    let at = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openapi");
    std::fs::create_dir_all(&at).unwrap();
    let packages = at.join("node_modules");
    let _ = std::fs::remove_file(&packages);
    std::os::unix::fs::symlink(folder().join("node_modules"), &packages).unwrap();
    for file in ["package.json", "tsconfig.json", "calls.ts"] {
        std::fs::copy(folder().join(file), at.join(file)).unwrap();
    }

    let node = |arguments: &[&str]| {
        let output = run(Command::new("node").args(arguments).current_dir(&at));
        expect_success(&output, arguments[0])
    };
    let generator = "node_modules/openapi-typescript/bin/cli.js";
    let description = description();
    node(&[
        generator,
        description.to_str().unwrap(),
        "--output",
        "api.ts",
    ]);
    node(&["node_modules/typescript/bin/tsc", "--project", "."]);
    let url = format!("http://{}", server.address());
    assert!(node(&["calls.js", &url, KEY]).contains("every call was made"));

    // What docs/reference/http.md shows, without a key.
    let open = server_with(|_| {});
    let page = include_str!("../../docs/reference/http.md");
    let (_, shown) = page.split_once("```ts\n").unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    let shown = shown
        .replace("./fanfare.js", "./api.js")
        .replace("127.0.0.1:7070", &open.address().to_string());
    std::fs::write(at.join("calls.ts"), shown + "export {};\n").unwrap();
    node(&["node_modules/typescript/bin/tsc", "--project", "."]);
    node(&["calls.js"]);
}

#[test]
fn schemathesis_finds_no_difference_between_the_description_and_the_server() {
    let server = keyed_server(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.channels.push(ChannelRule::new("*", 100));
    });

    // The same requests in every run. `tests/openapi/README.md` says how to make thousands of others.
    let modules = std::env::join_paths([folder().join("python_modules"), folder()]).unwrap();
    let output = run(Command::new("python3")
        .args([
            "-c",
            "from schemathesis.cli import schemathesis; schemathesis()",
        ])
        .arg("--config-file")
        .arg(folder().join("schemathesis.toml"))
        .arg("run")
        .arg(description())
        .args(["--url", &format!("http://{}", server.address())])
        .args(["--header", &format!("Authorization: Bearer {KEY}")])
        .args(["--phases", "examples,fuzzing", "--max-examples", "10"])
        .arg("--generation-deterministic")
        // How long a busy machine takes for data and for answers says nothing of the description.
        .args([
            "--suppress-health-check",
            "too_slow",
            "--request-timeout",
            "120",
        ])
        .env("PYTHONPATH", modules)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .current_dir(env!("CARGO_TARGET_TMPDIR")));
    let said = expect_success(&output, "schemathesis");
    assert!(said.contains("Selected: 27/28"), "{said}");
}
