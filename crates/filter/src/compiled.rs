//! A filter, compiled; and bound to the params of a request.

mod bound;
mod explanations;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

pub use self::{
    bound::{Bound, Judged, Verdict},
    explanations::Explanations,
};
use super::{
    check::{Checked, ParamUse, check, require_bool},
    compiler::{Compiler, Term, Test},
    error::{FilterError, FilterErrorKind, Span, suggestion},
    index::Schema,
    layout::{Map, MapKey},
    parser::parse,
    pattern::{Allowance, Pattern},
    planner::{Candidate, by_keys, conjuncts, plan},
    resolved::Node,
    runtime::{Param, ScalarSet},
    value::Value,
};

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
        let checked = checked(source, schema)?;
        require_bool(&checked.root)?;
        Ok(Self::of(source, schema, checked, |root, compiler| {
            let nodes = conjuncts(root);
            // One for each conjunct, in the same order: a plan names the conjunct that it answers by
            // its place.
            let candidates = nodes
                .iter()
                .map(|node| Candidate::of(node, schema))
                .collect();
            let tests = nodes.into_iter().map(|node| compiler.test(node));
            (Program::Conjuncts(tests.collect()), candidates)
        }))
    }

    /// Compiles an expression of any kind, for [`Bound::evaluate`]. It is never planned: it scans.
    ///
    /// # Errors
    /// As [`Filter::compile`], except that it need not be a bool.
    pub fn compile_expression(source: &str, schema: &Schema) -> Result<Self, FilterError> {
        let checked = checked(source, schema)?;
        // One conjunct that no index answers, so that the plan is to scan and to evaluate.
        Ok(Self::of(source, schema, checked, |root, compiler| {
            (Program::Expression(compiler.term(root)), vec![None])
        }))
    }

    /// The filter of a checked text, with what `compile` makes of it: a program, and what an index may answer of it.
    fn of(
        source: &str,
        schema: &Schema,
        checked: Checked,
        compile: impl FnOnce(&Node, &mut Compiler) -> (Program, Vec<Option<Candidate>>),
    ) -> Self {
        let Checked {
            root,
            params,
            allowance,
        } = checked;

        let mut compiler = Compiler::default();
        let (program, candidates) = compile(&root, &mut compiler);
        Self {
            source: source.into(),
            schema: schema.clone(),
            is_heavy: root.is_heavy(),
            root,
            params,
            allowance,
            constants: compiler.constants,
            program,
            candidates,
        }
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
