//! The functions of the language: how each is written, and what is said about those it does not have.

use super::{
    ast::{Expr, Macro},
    error::{FilterError, FilterErrorKind, Span, suggestion},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    StartsWith,
    EndsWith,
    Contains,
    LowerAscii,
    UpperAscii,
    Int,
    Double,
    String,
}

impl Function {
    /// Its name in the language.
    pub(super) fn name(self) -> &'static str {
        let of = |signature: &&Signature| signature.function == Some(self);
        SIGNATURES
            .iter()
            .find(of)
            .map_or("", |signature| signature.name)
    }
}

/// How a function is written: arguments as a function, and as a method of a receiver.
pub(super) struct Signature {
    pub(super) name: &'static str,
    pub(super) function: Option<Function>,
    pub(super) plain: Option<usize>,
    pub(super) method: Option<usize>,
    pub(super) usage: &'static str,
}

const fn signature(
    name: &'static str,
    function: Option<Function>,
    plain: Option<usize>,
    method: Option<usize>,
    usage: &'static str,
) -> Signature {
    Signature {
        name,
        function,
        plain,
        method,
        usage,
    }
}

pub(super) static SIGNATURES: [Signature; 10] = [
    signature(
        "size",
        Some(Function::Size),
        Some(1),
        Some(0),
        "size(x) or x.size()",
    ),
    signature(
        "startsWith",
        Some(Function::StartsWith),
        None,
        Some(1),
        "text.startsWith(prefix)",
    ),
    signature(
        "endsWith",
        Some(Function::EndsWith),
        None,
        Some(1),
        "text.endsWith(suffix)",
    ),
    signature(
        "contains",
        Some(Function::Contains),
        None,
        Some(1),
        "text.contains(part)",
    ),
    // Without a function, since its pattern is compiled before anything is evaluated.
    signature("matches", None, Some(2), Some(1), "text.matches(pattern)"),
    signature(
        "lowerAscii",
        Some(Function::LowerAscii),
        None,
        Some(0),
        "text.lowerAscii()",
    ),
    signature(
        "upperAscii",
        Some(Function::UpperAscii),
        None,
        Some(0),
        "text.upperAscii()",
    ),
    signature("int", Some(Function::Int), Some(1), None, "int(x)"),
    signature("double", Some(Function::Double), Some(1), None, "double(x)"),
    signature("string", Some(Function::String), Some(1), None, "string(x)"),
];

/// The names of functions and macros.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let functions = SIGNATURES.iter().map(|signature| signature.name);
    functions.chain(Macro::NAMES.iter().map(|(name, _)| *name))
}

/// Functions of CEL that have no meaning over JSON values.
const LEFT_OUT: [&str; 18] = [
    "uint",
    "bytes",
    "bool",
    "timestamp",
    "duration",
    "type",
    "dyn",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "proto",
];

/// Most bytes of an expression that a hint repeats.
const HINT_BYTES: usize = 80;

/// What is written in place of a function of another language; nothing if it is not a usual one.
fn other_function(name: &str, receiver: Option<&Expr>, arguments: &[Expr]) -> Option<String> {
    let instead = match (name.to_ascii_lowercase().as_str(), receiver) {
        ("includes" | "indexof" | "has" | "containskey", Some(list)) => {
            let written = arguments.first().map(|item| format!("{item} in {list}"));
            let written = written.filter(|written| written.len() <= HINT_BYTES);
            return Some(format!(
                "write {}",
                written.as_deref().unwrap_or("item in list")
            ));
        }
        ("like" | "test" | "match" | "regex", _) => "matches",
        ("len" | "length" | "count", _) => "size",
        ("lower" | "tolower" | "tolowercase" | "lowercase", _) => "lowerAscii",
        ("upper" | "toupper" | "touppercase" | "uppercase", _) => "upperAscii",
        ("any" | "some", Some(_)) => "exists",
        ("every", Some(_)) => "all",
        ("number" | "parseint", None) => "int",
        ("tostring" | "str", _) => "string",
        _ => return None,
    };

    Some(format!("did you mean \"{instead}\"?"))
}

pub(super) fn unknown_function(
    name: &str,
    receiver: Option<&Expr>,
    arguments: &[Expr],
    at: Span,
) -> FilterError {
    if LEFT_OUT.contains(&name) {
        let message = format!("{name}() is left out: values are those of JSON");
        return FilterError::new(FilterErrorKind::Unsupported, at, message);
    }

    let method = receiver.is_some();
    let macros = Macro::NAMES
        .iter()
        .filter(|_| method)
        .map(|(name, _)| *name);
    let plain = ["has"].into_iter().filter(|_| !method);

    let near = suggestion(
        name,
        SIGNATURES
            .iter()
            .map(|signature| signature.name)
            .chain(macros)
            .chain(plain),
    );

    // A word of another language says more than a name that only looks alike.
    let near = match other_function(name, receiver, arguments) {
        Some(hint) => format!("; {hint}"),
        None => near,
    };

    let what = if method { "method" } else { "function" };
    FilterError::new(
        FilterErrorKind::UnknownFunction,
        at,
        format!("unknown {what} {name}(){near}"),
    )
}
