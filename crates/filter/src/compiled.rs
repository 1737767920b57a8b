//! A filter, compiled; and bound to the params of a request.

use std::{fmt, sync::Arc};

use super::{
    attributes::{Attributes, View},
    check::{Checked, Node, NodeKind, ParamUse, check, require_bool},
    compiler::{Compiler, Term, Test},
    error::{EvalError, EvalErrorKind, FilterError, FilterErrorKind, Span, suggestion},
    explain::{Explained, Warning, operation, sub_expressions, warnings},
    index::{IndexRef, Schema},
    layout::{Map, MapKey},
    parser::parse,
    pattern::{Allowance, Pattern},
    planner::{Candidate, Plan, by_keys, conjuncts, plan},
    runtime::{Base, Param, ScalarSet, Tri},
    value::Value,
};
use crate::limits;

/// What a filter says about one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// True.
    Match,
    /// False.
    NoMatch,
    /// Neither: the evaluation ended in an error, which does not match and is counted.
    Error,
}

impl From<Tri> for Verdict {
    #[inline]
    fn from(tri: Tri) -> Self {
        match tri {
            Tri::True => Self::Match,
            Tri::False => Self::NoMatch,
            Tri::Error => Self::Error,
        }
    }
}

/// A verdict, and what it cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What the filter says.
    pub verdict: Verdict,
    /// The work that was charged for it, in units of about a nanosecond: bytes, and steps of macros, each of which counts
    /// for [`limits::FILTER_STEP_WORK`].
    pub work: u32,
}

impl Judged {
    /// A verdict that cost nothing to speak of.
    #[inline]
    pub fn free(verdict: Verdict) -> Self {
        Self { verdict, work: 0 }
    }
}

/// A compiled filter: made once per text, shared by every request that has it. [`bind`](Self::bind) gives it params.
pub struct Filter {
    source: Arc<str>,
    schema: Schema,
    root: Node,
    params: Vec<ParamUse>,
    /// What is left for patterns that are params.
    allowance: Allowance,
    constants: Vec<Value>,
    program: Program,
    candidates: Vec<Option<Candidate>>,
    /// Whether a part of it may take long, whatever its params are.
    is_heavy: bool,
}

enum Program {
    /// What must all be true.
    Conjuncts(Vec<Test>),
    Expression(Term),
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Filter {
    /// Compiles a filter. Takes microseconds, or with regular expressions a few milliseconds at most; does not evaluate
    /// anything.
    ///
    /// # Errors
    /// [`FilterError`], with the place in `source`: every kind but `unbound_param`.
    pub fn compile(source: &str, schema: &Schema) -> Result<Self, FilterError> {
        let Checked {
            root,
            params,
            allowance,
        } = checked(source, schema)?;

        require_bool(&root)?;
        let is_heavy = root.is_heavy();
        let mut compiler = Compiler::default();
        let nodes = conjuncts(&root);

        // One for each conjunct, in the same order: a plan names the conjunct that it answers by
        // its place.
        let candidates = nodes
            .iter()
            .map(|node| Candidate::of(node, schema))
            .collect();
        let program =
            Program::Conjuncts(nodes.into_iter().map(|node| compiler.test(node)).collect());
        let constants = compiler.constants;

        Ok(Self {
            source: source.into(),
            schema: schema.clone(),
            root,
            params,
            allowance,
            constants,
            program,
            candidates,
            is_heavy,
        })
    }

    /// Compiles an expression of any kind, for [`Bound::evaluate`]. It is never planned: it scans.
    ///
    /// # Errors
    /// As [`Filter::compile`], except that it need not be a bool.
    pub fn compile_expression(source: &str, schema: &Schema) -> Result<Self, FilterError> {
        let Checked {
            root,
            params,
            allowance,
        } = checked(source, schema)?;

        let is_heavy = root.is_heavy();
        let mut compiler = Compiler::default();
        let program = Program::Expression(compiler.term(&root));
        let constants = compiler.constants;
        // One conjunct that no index answers, so that the plan is to scan and to evaluate.
        let candidates = vec![None];

        Ok(Self {
            source: source.into(),
            schema: schema.clone(),
            root,
            params,
            allowance,
            constants,
            program,
            candidates,
            is_heavy,
        })
    }

    /// Gives the filter the params of a request: an object, or nothing if it names none. Params that it does not
    /// name are ignored. Compiles patterns that are params, and plans.
    ///
    /// # Errors
    /// `unbound_param` for a param that the filter names and the request lacks, `bad_params` if `params` is not
    /// an object, `bad_regex` for a param that is a bad pattern.
    #[inline]
    pub fn bind(self: &Arc<Self>, params: Option<Value>) -> Result<Bound, FilterError> {
        self.bind_with(params, Allowance::compile)
    }

    /// As [`bind`](Self::bind), with patterns that `compile` gives within what is left for them.
    pub(super) fn bind_with(
        self: &Arc<Self>,
        params: Option<Value>,
        compile: impl Fn(&mut Allowance, &str, Span) -> Result<Arc<Pattern>, FilterError>,
    ) -> Result<Bound, FilterError> {
        let given = params.unwrap_or_default();
        if !matches!(given, Value::Null | Value::Map(_)) {
            let message = format!("params must be an object, not a {}", given.kind());
            return Err(FilterError::new(
                FilterErrorKind::BadParams,
                Span::default(),
                message,
            ));
        }

        // Each request has the whole rest for itself, since the filter is shared.
        let mut allowance = self.allowance;
        let mut compile = |text: &str, span| compile(&mut allowance, text, span);
        let bound = self
            .params
            .iter()
            .map(|used| bind_param(used, &given, &mut compile))
            .collect::<Result<Vec<_>, _>>()?;

        let plan = plan(&self.candidates, &bound, &self.schema, by_keys);
        Ok(Bound {
            filter: self.clone(),
            params: bound.into(),
            plan: plan.into(),
        })
    }

    /// The text it was compiled from.
    #[inline]
    pub fn source(&self) -> &Arc<str> {
        &self.source
    }

    pub(super) fn root(&self) -> &Node {
        &self.root
    }

    /// The schema it was compiled with.
    #[inline]
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// About how many bytes it holds.
    pub(super) fn bytes(&self) -> usize {
        let params = self.params.len() * size_of::<ParamUse>();
        size_of::<Self>() + 2 * self.source.len() + params + self.root.bytes()
    }

    /// The params that are regular expressions.
    pub(super) fn pattern_params(&self) -> impl Iterator<Item = &str> {
        let patterns = self.params.iter().filter(|param| param.pattern);
        patterns.map(|param| &*param.name)
    }

    /// The params it names, in the order of their first use.
    #[inline]
    pub fn params(&self) -> impl ExactSizeIterator<Item = &str> {
        self.params.iter().map(|param| &*param.name)
    }
}

fn checked(source: &str, schema: &Schema) -> Result<Checked, FilterError> {
    check(&parse(source)?, schema.variables())
}

fn bind_param(
    used: &ParamUse,
    given: &Value,
    compile: impl FnOnce(&str, Span) -> Result<Arc<Pattern>, FilterError>,
) -> Result<Param, FilterError> {
    let Some(value) = given.as_map().and_then(|map| map.find(&used.name)) else {
        let keys = given.as_map().map_or(&[][..], Map::keys);
        let near = suggestion(&used.name, keys.iter().filter_map(MapKey::as_str));
        let message = format!(
            "the filter uses params.{name}, but \"params\" has no \"{name}\"{near}",
            name = used.name
        );
        return Err(FilterError::new(
            FilterErrorKind::UnboundParam,
            used.span,
            message,
        ));
    };

    let pattern = match value {
        Value::String(pattern) if used.pattern => Some(compile(pattern, used.span)?),
        other if used.pattern => {
            let message = format!(
                "params.{} is a pattern and must be a string, not a {}",
                used.name,
                other.kind()
            );
            return Err(FilterError::new(
                FilterErrorKind::BadRegex,
                used.span,
                message,
            ));
        }
        _ => None,
    };

    // Hashed once for the request, instead of walked for each connection.
    let searched = value.as_list().filter(|_| used.searched);
    Ok(Param {
        value: value.clone(),
        set: searched.and_then(ScalarSet::new),
        pattern,
    })
}

/// A filter with its params and its plan. Cheap to clone; evaluates on any thread.
#[derive(Clone, Debug)]
pub struct Bound {
    filter: Arc<Filter>,
    params: Arc<[Param]>,
    plan: Arc<Plan>,
}

impl Bound {
    /// Evaluates the whole filter for one connection, in bounded time.
    #[inline]
    pub fn matches<'a>(&self, seen: impl Into<View<'a>>) -> Verdict {
        self.judge(seen).verdict
    }

    /// As [`matches`](Self::matches), with what it cost.
    #[inline]
    pub fn judge<'a>(&self, seen: impl Into<View<'a>>) -> Judged {
        self.verdict(seen.into(), None)
    }

    /// Evaluates what the plan leaves over for a connection that its access found; [`Verdict::Match`] if that is
    /// nothing.
    #[inline]
    pub fn residual<'a>(&self, seen: impl Into<View<'a>>) -> Verdict {
        self.judge_residual(seen).verdict
    }

    /// As [`residual`](Self::residual), with what it cost.
    #[inline]
    pub fn judge_residual<'a>(&self, seen: impl Into<View<'a>>) -> Judged {
        if !self.plan.residual {
            return Judged::free(if self.plan.access == super::Access::Nobody {
                Verdict::NoMatch
            } else {
                Verdict::Match
            });
        }
        self.verdict(seen.into(), self.plan.answered)
    }

    fn verdict(&self, seen: View<'_>, skip: Option<usize>) -> Judged {
        let base = self.base(seen, &[]);
        let tri = match &self.filter.program {
            Program::Conjuncts(tests) => all(tests, &base, skip),
            Program::Expression(term) => match term(base.frame()).as_deref() {
                Ok(Value::Bool(value)) => (*value).into(),
                _ => Tri::Error,
            },
        };

        // Even if `||` has absorbed the error: nothing after it was evaluated.
        let verdict = if base.spent() {
            Verdict::Error
        } else {
            tri.into()
        };

        Judged {
            verdict,
            work: base.work(),
        }
    }

    fn base<'f>(&'f self, seen: View<'f>, variables: &'f [Value]) -> Base<'f> {
        Base::new(seen, &self.params, &self.filter.constants, variables)
    }

    /// The value of the expression for one connection.
    ///
    /// # Errors
    /// What the evaluation met, and where; also a value that is larger than one evaluation may build.
    #[inline]
    pub fn evaluate(&self, attributes: &Attributes) -> Result<Value, EvalError> {
        self.evaluate_with(attributes, &[])
    }

    /// As [`evaluate`](Self::evaluate), with values for the variables of [`Schema::with_variables`], in their order.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    #[doc(hidden)]
    pub fn evaluate_with(
        &self,
        attributes: &Attributes,
        variables: &[Value],
    ) -> Result<Value, EvalError> {
        let base = self.base(attributes.into(), variables);
        let span = self.filter.root.span;
        let value = match &self.filter.program {
            Program::Conjuncts(tests) => match all(tests, &base, None) {
                Tri::True => Ok(Value::Bool(true)),
                Tri::False => Ok(Value::Bool(false)),
                Tri::Error => Err(None),
            },
            Program::Expression(term) => term(base.frame())
                .map(super::runtime::Operand::into_owned)
                .map_err(Some),
        };

        let unknown = EvalError {
            kind: super::EvalErrorKind::NoOverload,
            span,
        };

        // A budget that ran out explains every error that came after.
        let spent = || base.last_error().filter(|_| base.spent());
        match value {
            Ok(value) => match spent() {
                Some(error) => Err(error),
                None => base.measure(&value, span).map(|()| value),
            },
            Err(error) => Err(spent().or(error).or(base.last_error()).unwrap_or(unknown)),
        }
    }

    /// Whether evaluating it may take long for one connection: it walks lists, searches for patterns, builds or converts
    /// values, or compares with a large param.
    #[inline]
    pub fn is_heavy(&self) -> bool {
        self.filter.is_heavy || self.params.iter().any(Param::is_heavy)
    }

    /// The same for what the plan leaves over.
    #[inline]
    pub fn is_residual_heavy(&self) -> bool {
        self.plan.residual && self.is_heavy()
    }

    /// How the connections that match are found.
    #[inline]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The same, planned again with what the caller knows: `cost` estimates how many connections a look-up of so many keys
    /// gives. Every candidate of the filter is asked about.
    #[must_use]
    #[inline]
    pub fn planned_by(&self, cost: impl Fn(IndexRef, usize) -> usize) -> Self {
        let plan = plan(
            &self.filter.candidates,
            &self.params,
            &self.filter.schema,
            cost,
        );
        Self {
            plan: plan.into(),
            ..self.clone()
        }
    }

    pub(super) fn params(&self) -> &[Param] {
        &self.params
    }

    /// The filter that was bound.
    #[inline]
    pub fn filter(&self) -> &Arc<Filter> {
        &self.filter
    }

    /// What the author should think about again: it can be evaluated, but may not mean what it seems to.
    #[inline]
    pub fn warnings(&self) -> Vec<Warning> {
        warnings(&self.filter.root, &self.params, &self.filter.source)
    }

    /// The value of every sub-expression outside macros for one connection, from left to right, the larger before
    /// the parts it has; literals are left out. Compiles each again, so it is for people, not for traffic.
    ///
    /// Each step of the iterator takes a few evaluations, so a caller on an event loop yields between two.
    #[inline]
    pub fn explain<'b>(&'b self, attributes: &'b Attributes) -> Explanations<'b> {
        Explanations {
            bound: self,
            attributes,
            nodes: sub_expressions(&self.filter.root),
            next: 0,
            bytes: limits::FILTER_WORK_BYTES,
        }
    }

    /// The value of one node outside macros, compiled for this alone.
    fn value_of(&self, node: &Node, attributes: &Attributes) -> Result<Value, EvalError> {
        let mut compiler = Compiler::default();
        let term = compiler.term(node);
        let base = Base::new(attributes.into(), &self.params, &compiler.constants, &[]);
        term(base.frame()).map(super::runtime::Operand::into_owned)
    }
}

/// The values of a filter's parts for one connection, one after another; see [`Bound::explain`].
#[derive(Debug)]
pub struct Explanations<'b> {
    bound: &'b Bound,
    attributes: &'b Attributes,
    nodes: Vec<&'b Node>,
    next: usize,
    /// What may still be shown: one budget for all parts, so that the answer is bounded.
    bytes: u32,
}

impl Iterator for Explanations<'_> {
    type Item = Explained;

    fn next(&mut self) -> Option<Explained> {
        let node = *self.nodes.get(self.next)?;
        self.next += 1;

        let shown = self
            .bound
            .base(self.attributes.into(), &[])
            .with_bytes(self.bytes);
        let value = self
            .bound
            .value_of(node, self.attributes)
            .and_then(|value| shown.measure(&value, node.span).map(|()| value));
        self.bytes = shown.bytes_left();

        let detail = value.as_ref().err().and_then(|error| self.detail(*error));
        Some(Explained {
            span: node.span,
            text: node.span.of(&self.bound.filter.source).into(),
            value,
            detail,
        })
    }
}

impl Explanations<'_> {
    /// What the operation that has no meaning was given.
    fn detail(&self, error: EvalError) -> Option<String> {
        if error.kind != EvalErrorKind::NoOverload {
            return None;
        }
        let failed = self.nodes.iter().find(|node| node.span == error.span)?;
        let kind_of = |operand| Some(self.bound.value_of(operand, self.attributes).ok()?.kind());
        let operation = operation(failed, kind_of)?;
        Some(format!("{operation} has no meaning"))
    }
}

#[inline]
fn all(tests: &[Test], base: &Base<'_>, skip: Option<usize>) -> Tri {
    let mut result = Tri::True;
    for (at, test) in tests.iter().enumerate() {
        if Some(at) == skip {
            continue;
        }
        // An error counts only if no conjunct is false, as in CEL.
        match test(base.frame()) {
            Tri::True => {}
            Tri::False => return Tri::False,
            Tri::Error => result = Tri::Error,
        }
    }
    result
}

impl NodeKind {
    pub(super) fn is_constant(&self) -> bool {
        matches!(self, Self::Constant(_))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Access, attributes::tests::facts},
        *,
    };

    fn json(text: &str) -> Value {
        Value::from_json(&mut text.as_bytes().to_vec(), None).unwrap()
    }

    fn someone() -> Attributes {
        let auth = json(
            r#"{"tenant":"t1","age":40,"roles":["a","b"],"text":"x","many":[0,1,2,3,4,5,6,7,8,9]}"#,
        );
        let profile = json(r#"{"status":"away"}"#);
        let channels = json(r#"["room-1","lobby"]"#);
        Attributes {
            auth,
            user: "u1".into(),
            profile,
            channels,
            connection: facts(),
        }
    }

    fn bound(source: &str, params: &str) -> Bound {
        let schema = Schema::new(&["auth.tenant", "auth.roles"]).unwrap();
        Arc::new(Filter::compile(source, &schema).unwrap())
            .bind(Some(json(params)))
            .unwrap()
    }

    fn verdict(source: &str) -> Verdict {
        bound(
            source,
            r#"{"t":"t1","users":["u0","u1","u2","u3","u4","u5","u6","u7","u8"],"none":null}"#,
        )
        .matches(&someone())
    }

    #[test]
    fn filters_decide() {
        for source in [
            "auth.tenant == params.t && profile.status == 'away'",
            "auth.missing == null && auth.banned != true && auth.a.b.c == null",
            "!has(auth.missing) && has(auth.age) && has(connection.device)",
            "user in params.users && user in ['u0', 'u1'] && 'a' in auth.roles",
            "user in ['0','1','2','3','4','5','6','7','8','9','u1']",
            "channels.exists(c, c.startsWith('room-')) && !channels.all(c, c.startsWith('room-'))",
            "auth.age >= 18 && 18 <= auth.age && auth.age < 40.5 && auth.age in [40.0]",
            "connection.protocol == 'fanfare.v1' && connection.ip.startsWith('192.0.2.')",
            "auth.missing >= 18 || true",
            "params.none == auth.missing",
            "matches(auth.text, '^x$') && size(user) == 2 && user.upperAscii() == 'U1'",
            "[1, 2].exists(x, [3, 4].exists(y, x + y == 6 && x == 2))",
            "auth.tenant == auth['ten' + 'ant']",
        ] {
            assert_eq!(verdict(source), Verdict::Match, "{source}");
        }
        for source in [
            "auth.missing >= 18",
            "auth.text.x == 1",
            "1 / 0 == 1",
            "'a' in auth.missing",
            "auth.tenant",
        ] {
            assert_eq!(verdict(source), Verdict::Error, "{source}");
        }
        for source in [
            "false && 1 / 0 == 1",
            "1 / 0 == 1 && false",
            "auth.roles == 'a'",
            "false",
            "user == 1",
        ] {
            assert_eq!(verdict(source), Verdict::NoMatch, "{source}");
        }
    }

    #[test]
    fn work_is_bounded_whatever_absorbs_the_error() {
        let ten = "auth.many.all(a, auth.many.all(b, auth.many.all(c, auth.many.all(d, auth.many.all(e, true)))))";
        assert_eq!(verdict(ten), Verdict::Error);
        assert_eq!(verdict(&format!("{ten} || true")), Verdict::Error);
        let twice = (0..20).fold("['0123456789']".to_owned(), |list, _| {
            format!("{list}.map(x, x + x)")
        });
        assert_eq!(verdict(&format!("{twice} != []")), Verdict::Error);
        let shared = (0..30).fold("[0]".to_owned(), |list, _| format!("{list}.map(x, [x, x])"));
        let smaller = (0..15).fold("[0]".to_owned(), |list, _| format!("{list}.map(x, [x, x])"));
        assert_eq!(verdict(&format!("{smaller} == {smaller}")), Verdict::Error);
        let built = Filter::compile_expression(&shared, &Schema::default()).unwrap();
        let error = Arc::new(built)
            .bind(None)
            .unwrap()
            .evaluate(&someone())
            .unwrap_err();
        assert_eq!(error.kind, EvalErrorKind::Bytes);
    }

    #[test]
    fn plans_say_what_an_index_answers() {
        let plan = |source: &str| {
            bound(
                source,
                r#"{"t":"t1","l":["a","b","a"],"m":{"k":1},"none":[]}"#,
            )
            .plan()
            .to_string()
        };
        assert_eq!(plan("true"), "everyone");
        assert_eq!(plan("auth.age > 1"), "scan every connection");
        assert_eq!(plan("auth.tenant == params.t"), "index auth.tenant (1 key)");
        assert_eq!(
            plan("'t' == auth.tenant && auth.age > 1"),
            "index auth.tenant (1 key), then evaluate the rest"
        );
        assert_eq!(
            plan("auth.tenant == 't' && user in params.l"),
            "index auth.tenant (1 key), then evaluate the rest"
        );
        assert_eq!(
            plan("auth.tenant == 't' && user == 'u'"),
            "index user (1 key), then evaluate the rest"
        );
        assert_eq!(plan("user in params.l"), "index user (2 keys)");
        assert_eq!(plan("auth.tenant in params.m"), "index auth.tenant (1 key)");
        assert_eq!(plan("'a' in auth.roles"), "index auth.roles (1 key)");
        assert_eq!(plan("auth.tenant == params.l"), "scan every connection");
        assert_eq!(plan("user == 'a' || user == 'b'"), "scan every connection");
        assert_eq!(plan("!(user in params.l)"), "scan every connection");
        for nobody in [
            "user in []",
            "user in params.none",
            "connection.id == 'x'",
            "auth.x && false",
        ] {
            assert_eq!(plan(nobody), "nobody can match", "{nobody}");
        }
        let id = facts().id;
        let by_id = bound(&format!("connection.id == '{id}'"), "{}");
        assert!(
            matches!(&by_id.plan().access, Access::Lookup { index: IndexRef::ConnectionId, keys } if keys.len() == 1)
        );
        assert_eq!(
            (by_id.matches(&someone()), by_id.residual(&someone())),
            (Verdict::Match, Verdict::Match)
        );
    }

    #[test]
    fn params_are_bound_or_refused() {
        let bind = |source: &str, params: &str| {
            let filter = Arc::new(Filter::compile(source, &Schema::default()).unwrap());
            filter
                .bind(Some(json(params)))
                .map(|_| ())
                .map_err(|e| (e.code(), e.message))
        };
        assert_eq!(
            bind("user == params.tenant", r#"{"tenat":1}"#),
            Err((
                "unbound_param",
                "the filter uses params.tenant, but \"params\" has no \"tenant\"; did you mean \"tenat\"?".into()
            ))
        );
        assert_eq!(bind("user == params.a", "[]").unwrap_err().0, "bad_params");
        assert_eq!(
            bind("user.matches(params.p)", r#"{"p":"("}"#)
                .unwrap_err()
                .0,
            "bad_regex"
        );
        assert_eq!(
            bind("user.matches(params.p)", r#"{"p":1}"#).unwrap_err().0,
            "bad_regex"
        );
        assert_eq!(
            bind("user.matches(params.p)", r#"{"p":"a+","unused":1}"#),
            Ok(())
        );
        assert_eq!(bind("user == 'a'", "null"), Ok(()));
    }

    #[test]
    fn explain_shows_every_part_and_warns() {
        let bound = bound(
            "auth.age > 50 || profile.status == params.s",
            r#"{"s":"away"}"#,
        );
        let parts: Vec<(String, String)> = bound
            .explain(&someone())
            .map(|part| {
                (
                    part.text,
                    part.value
                        .map_or_else(|e| e.to_string(), |v| serde_json::to_string(&v).unwrap()),
                )
            })
            .collect();
        let parts: Vec<(&str, &str)> = parts
            .iter()
            .map(|(text, value)| (&**text, &**value))
            .collect();
        assert_eq!(
            parts[1..4],
            [
                ("auth.age > 50", "false"),
                ("auth.age", "40"),
                ("auth", parts[3].1)
            ]
        );
        assert!(parts.contains(&("profile.status == params.s", "true")));
        assert_eq!(
            bound.warnings().iter().map(|w| w.code).collect::<Vec<_>>(),
            ["client_controlled"]
        );
        let codes = |source: &str, params: &str| {
            self::bound(source, params)
                .warnings()
                .into_iter()
                .map(|w| w.code)
                .collect::<Vec<_>>()
        };
        assert_eq!(codes("auth.a == auth.b", "{}"), ["null_equals_null"]);
        assert_eq!(
            codes("auth.a == params.x", r#"{"x":null}"#),
            ["null_equals_null"]
        );
        assert_eq!(
            codes("auth.a in params.x", r#"{"x":[null]}"#),
            ["null_equals_null"]
        );
        assert!(codes("auth.a == params.x && auth.b == null", r#"{"x":1}"#).is_empty());
        for source in [
            "auth.roles in 'admin'",
            "auth.roles in 5",
            "user.id == 'ann'",
            "has(user.id)",
            "channels.lobby",
        ] {
            assert_eq!(codes(source, "{}"), ["wrong_type"], "{source}");
        }
        for source in [
            "'a' in ['a']",
            "'a' in {'a': 1}",
            "'a' in channels",
            "'a' in auth",
        ] {
            assert!(codes(source, "{}").is_empty(), "{source}");
        }
    }

    #[test]
    fn explain_names_the_kinds_of_an_operation_without_meaning() {
        for (source, says) in [
            ("auth.missing >= 18", "null >= int has no meaning"),
            ("1 + auth.text == 2", "int + string has no meaning"),
            ("auth.missing.size() == 1", "size(null) has no meaning"),
            ("-auth.text == 1", "-string has no meaning"),
            ("user in auth.age", "string in int has no meaning"),
        ] {
            let (bound, someone) = (bound(source, "{}"), someone());
            let parts: Vec<Explained> = bound.explain(&someone).collect();
            assert!(
                parts
                    .iter()
                    .any(|part| part.detail.as_deref() == Some(says)),
                "{source}: {parts:?}"
            );
        }
        let (bound, someone) = (bound("auth.missing == 18 || 1 / 0 == 1", "{}"), someone());
        assert!(bound.explain(&someone).all(|part| part.detail.is_none()));
    }

    #[test]
    fn filters_cross_threads() {
        fn sync<T: Send + Sync + Clone>() {}
        sync::<Bound>();
        sync::<Arc<Filter>>();
    }
}
