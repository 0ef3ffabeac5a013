// SPDX-License-Identifier: Apache-2.0
//! Checks code before it is ever evaluated.
//!
//! Rego skips what it cannot make sense of: a misspelt field is undefined, `not` makes that true, and a
//! string is greater than every number. Without these checks such a mistake would only show when it admits a
//! guest.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{BoolOp, Expr, Literal, Module, Query, Rule, RuleAssign, RuleHead, Span};

use cvmm_attest::document::Shape;

use super::input::{ALWAYS, DOCUMENT, RENAMED};

/// Functions whose result is not larger than their arguments, without time, randomness and network.
const FUNCTIONS: &[&str] = &[
    "abs",
    "bits.and",
    "bits.or",
    "bits.rsh",
    "bits.xor",
    "ceil",
    "concat",
    "contains",
    "count",
    "endswith",
    "floor",
    "indexof",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "lower",
    "max",
    "min",
    "round",
    "sort",
    "split",
    "sprintf",
    "startswith",
    "strings.any_prefix_match",
    "strings.any_suffix_match",
    "substring",
    "sum",
    "to_number",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "type_name",
    "upper",
];

/// What is wrong, with its place.
type Outcome = Result<(), String>;

/// Whether the code of `module` may be evaluated.
pub(super) fn check(module: &Module) -> Outcome {
    if module.package.refr.span().text() != "cvmm" {
        return Err(at(module.package.refr.span(), "the package has to be cvmm"));
    }
    for import in &module.imports {
        let text = import.refr.span().text();
        if import.r#as.is_some() || !(text == "rego.v1" || text.starts_with("future.keywords")) {
            return Err(at(&import.span, "only rego.v1 and future.keywords can be imported"));
        }
    }
    let mut rules: BTreeMap<String, Vec<&Rule>> = BTreeMap::new();
    for rule in &module.policy {
        let head = match &**rule {
            Rule::Spec {
                head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. },
                ..
            }
            | Rule::Default { refr, .. } => refr,
        };
        let Some(name) = first_name(head) else {
            return Err(at(head.span(), "a rule's name has to begin with a word"));
        };
        let taken = |function: &&str| function.split('.').next() == Some(name.as_str());
        if matches!(name.as_str(), "input" | "data") || FUNCTIONS.iter().any(taken) {
            return Err(at(head.span(), &format!("{name} is taken")));
        }
        // Calls are matched by the whole name.
        if matches!(&**rule, Rule::Spec { head: RuleHead::Func { .. }, .. }) && variable(head).is_none() {
            return Err(at(head.span(), "a function's name is one word"));
        }
        rules.entry(name).or_default().push(rule);
    }
    if !rules.contains_key("verdict") {
        return Err("there is no rule verdict".to_owned());
    }
    let mut uses = BTreeMap::new();
    for (name, parts) in &rules {
        let mut lint = Lint { rules: &rules, used: BTreeSet::new(), guards: Vec::new() };
        for rule in parts {
            lint.rule(rule)?;
        }
        uses.insert(name.as_str(), lint.used);
    }
    // A rule that comes back to itself would never end.
    for name in uses.keys() {
        let (mut seen, mut next) = (BTreeSet::new(), vec![*name]);
        while let Some(rule) = next.pop() {
            for used in uses.get(rule).into_iter().flatten() {
                if used == name {
                    return Err(format!("rule {name} needs itself"));
                }
                if seen.insert(used.as_str()) {
                    next.push(used);
                }
            }
        }
    }
    Ok(())
}

fn at(span: &Span, problem: &str) -> String {
    format!("line {}, column {}: {problem}", span.line, span.col)
}

/// The path that replaces one of an earlier version.
fn renamed(path: &str) -> Option<&'static str> {
    let path = path.trim_start_matches('.');
    RENAMED.iter().find(|(old, _)| *old == path).map(|(_, now)| *now)
}

fn variable(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Var { value, .. } => value.as_string().ok().map(AsRef::as_ref),
        _ => None,
    }
}

/// The word a reference begins with.
fn first_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } => first_name(refr),
        _ => variable(expr).map(str::to_owned),
    }
}

/// A step of a reference.
enum Step {
    Key(String),
    Index,
}

/// A reference from its word on; `None` if it begins with something else.
fn steps<'a>(expr: &'a Expr, out: &mut Vec<Step>) -> Option<&'a str> {
    match expr {
        Expr::RefDot { refr, field: (span, _), .. } => {
            let root = steps(refr, out)?;
            out.push(Step::Key(span.text().to_owned()));
            Some(root)
        }
        Expr::RefBrack { refr, index, .. } => {
            let root = steps(refr, out)?;
            out.push(match &**index {
                Expr::String { value, .. } | Expr::RawString { value, .. } => {
                    Step::Key(value.as_string().map(ToString::to_string).unwrap_or_default())
                }
                _ => Step::Index,
            });
            Some(root)
        }
        _ => variable(expr),
    }
}

/// What a path of the input is.
struct Place {
    path: String,
    shape: Shape,
}

struct Lint<'a> {
    rules: &'a BTreeMap<String, Vec<&'a Rule>>,
    used: BTreeSet<String>,
    /// Paths that the queries around have found not to be `null`.
    guards: Vec<String>,
}

impl Lint<'_> {
    fn rule(&mut self, rule: &Rule) -> Outcome {
        match rule {
            Rule::Default { args, value, .. } => {
                args.iter().try_for_each(|expr| self.expr(expr))?;
                self.expr(value)
            }
            Rule::Spec { head, bodies, .. } => {
                let (assign, parts) = match head {
                    RuleHead::Compr { refr, assign, .. } => (assign.as_ref(), vec![refr]),
                    RuleHead::Set { refr, key, .. } => (None, std::iter::once(refr).chain(key).collect()),
                    RuleHead::Func { refr, args, assign, .. } => {
                        for argument in args {
                            if first_name(argument).is_some_and(|name| name == "input" || name == "data") {
                                return Err(at(
                                    argument.span(),
                                    "input and data are not allowed as names of arguments",
                                ));
                            }
                            self.expr(argument)?;
                        }
                        (assign.as_ref(), vec![refr])
                    }
                };
                let before = self.guards.len();
                for body in bodies {
                    self.query(&body.query)?;
                    self.assign(body.assign.as_ref(), &body.query)?;
                }
                // The head has a value where the first body holds.
                if let Some(first) = bodies.first().filter(|_| bodies.len() == 1) {
                    self.collect(&first.query);
                }
                for part in parts {
                    self.head(part)?;
                }
                if let Some(RuleAssign { value, .. }) = assign {
                    self.expr(value)?;
                }
                self.guards.truncate(before);
                Ok(())
            }
        }
    }

    fn assign(&mut self, assign: Option<&RuleAssign>, query: &Query) -> Outcome {
        let Some(RuleAssign { value, .. }) = assign else { return Ok(()) };
        let before = self.guards.len();
        self.collect(query);
        let outcome = self.expr(value);
        self.guards.truncate(before);
        outcome
    }

    /// A rule's name, of which only what is in brackets is code.
    fn head(&mut self, expr: &Expr) -> Outcome {
        match expr {
            Expr::RefDot { refr, .. } => self.head(refr),
            Expr::RefBrack { refr, index, .. } => {
                self.head(refr)?;
                self.expr(index)
            }
            Expr::Var { .. } => Ok(()),
            other => self.expr(other),
        }
    }

    /// Records what a query finds not to be null.
    fn collect(&mut self, query: &Query) {
        for statement in &query.stmts {
            let Literal::Expr { expr, .. } = &statement.literal else { continue };
            let path = match &**expr {
                Expr::BoolExpr { op: BoolOp::Ne, lhs, rhs, .. } if matches!(**rhs, Expr::Null { .. }) => lhs,
                Expr::Call { fcn, params, .. } if variable(fcn) == Some("is_number") => {
                    match params.first() {
                        Some(path) => path,
                        None => continue,
                    }
                }
                _ => continue,
            };
            if let Ok(Some(place)) = self.place(path) {
                self.guards.push(place.path);
            }
        }
    }

    fn query(&mut self, query: &Query) -> Outcome {
        let before = self.guards.len();
        self.collect(query);
        for statement in &query.stmts {
            if let Some(with) = statement.with_mods.first() {
                return Err(at(
                    &with.span,
                    "with is not allowed in policies: it would evaluate input that was never presented",
                ));
            }
            match &statement.literal {
                Literal::SomeVars { vars, .. } => {
                    if let Some(span) = vars.iter().find(|span| matches!(span.text(), "input" | "data")) {
                        return Err(at(span, "input and data are not allowed as names of variables"));
                    }
                }
                Literal::SomeIn { key, value, collection, .. } => {
                    key.iter().try_for_each(|key| self.expr(key))?;
                    self.expr(value)?;
                    self.expr(collection)?;
                }
                Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.expr(expr)?,
                Literal::Every { key, value, domain, query, .. } => {
                    for span in key.iter().chain([value]) {
                        if matches!(span.text(), "input" | "data") {
                            return Err(at(span, "input and data are not allowed as names of variables"));
                        }
                    }
                    self.expr(domain)?;
                    self.query(query)?;
                }
            }
        }
        self.guards.truncate(before);
        Ok(())
    }

    /// Which path of the input a reference is; `None` for other references, an error for one that does not
    /// exist.
    fn place(&self, expr: &Expr) -> Result<Option<Place>, String> {
        let mut path = Vec::new();
        if steps(expr, &mut path) != Some("input") {
            return Ok(None);
        }
        let (mut shape, mut name) = (DOCUMENT, String::new());
        for step in path {
            let wrong = |problem: &str| Err(at(expr.span(), &format!("input{name}{problem}")));
            match (shape, step) {
                (Shape::Table(keys), Step::Key(key)) => match keys.iter().find(|(known, _)| *known == key) {
                    Some((known, found)) => {
                        shape = *found;
                        name = format!("{name}.{known}");
                    }
                    None => {
                        return match renamed(&format!("{name}.{key}")) {
                            Some(now) => wrong(&format!(".{key} is now input.{now}")),
                            None => wrong(&format!(" has no {key:?}")),
                        };
                    }
                },
                (Shape::Table(_), Step::Index) => {
                    return wrong(" has to be followed by a name, not by a variable");
                }
                (Shape::Texts, Step::Index) => {
                    shape = Shape::Text;
                    name.push_str("[_]");
                }
                (Shape::Text | Shape::Number | Shape::Flag | Shape::Texts, _) => {
                    return wrong(" is not a table");
                }
            }
        }
        if matches!(shape, Shape::Table(_)) {
            // Under another name this lint could no longer see which fields are read.
            let problem = match renamed(&name) {
                Some(now) => format!("input{name} is a table; its number is now input.{now}"),
                None => format!("input{name} is a table: name the field that is meant"),
            };
            return Err(at(expr.span(), &problem));
        }
        Ok(Some(Place { path: name.trim_start_matches('.').to_owned(), shape }))
    }

    fn expr(&mut self, expr: &Expr) -> Outcome {
        match expr {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => Ok(()),
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(expr),
            Expr::Array { items, .. } | Expr::Set { items, .. } => {
                items.iter().try_for_each(|item| self.expr(item))
            }
            Expr::Object { fields, .. } => fields.iter().try_for_each(|(_, key, value)| {
                self.expr(key)?;
                self.expr(value)
            }),
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                self.comprehension(&[term], query)
            }
            Expr::ObjectCompr { key, value, query, .. } => self.comprehension(&[key, value], query),
            Expr::Call { fcn, params, span, .. } => {
                let name = fcn.span().text();
                if self.rules.contains_key(name) {
                    self.used.insert(name.to_owned());
                } else if !FUNCTIONS.contains(&name) {
                    return Err(at(
                        span,
                        &format!("{name} cannot be used in a policy (docs/guide/policy.md has the list)"),
                    ));
                }
                params.iter().try_for_each(|param| self.expr(param))
            }
            Expr::UnaryExpr { expr, .. } => self.expr(expr),
            Expr::BoolExpr { op, lhs, rhs, .. } => {
                self.compared(op, lhs, rhs)?;
                self.compared(op, rhs, lhs)?;
                self.expr(lhs)?;
                self.expr(rhs)
            }
            Expr::BinExpr { lhs, rhs, .. } | Expr::ArithExpr { lhs, rhs, .. } => {
                self.expr(lhs)?;
                self.expr(rhs)
            }
            Expr::AssignExpr { lhs, rhs, span, .. } => {
                if variable(lhs).is_some_and(|name| matches!(name, "input" | "data")) {
                    return Err(at(span, "input and data are not allowed as names of variables"));
                }
                self.expr(lhs)?;
                self.expr(rhs)
            }
            Expr::Membership { key, value, collection, .. } => {
                key.iter().try_for_each(|key| self.expr(key))?;
                self.expr(value)?;
                self.expr(collection)
            }
        }
    }

    fn comprehension(&mut self, terms: &[&Expr], query: &Query) -> Outcome {
        self.query(query)?;
        let before = self.guards.len();
        self.collect(query);
        let outcome = terms.iter().try_for_each(|term| self.expr(term));
        self.guards.truncate(before);
        outcome
    }

    fn reference(&mut self, expr: &Expr) -> Outcome {
        let mut path = Vec::new();
        let root = steps(expr, &mut path);
        match root {
            Some("input") => {
                self.place(expr)?;
            }
            Some("data") => {
                return Err(at(expr.span(), "there is no data; rules are called by their names"));
            }
            Some(name) if self.rules.contains_key(name) => {
                self.used.insert(name.to_owned());
            }
            Some(_) => {}
            // Something computed, with a step behind it.
            None => match expr {
                Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } => self.expr(refr)?,
                _ => {}
            },
        }
        let mut inner = expr;
        while let Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } = inner {
            if let Expr::RefBrack { index, .. } = inner {
                self.expr(index)?;
            }
            inner = refr;
        }
        Ok(())
    }

    /// A path of the input on one side of a comparison, and what is on the other.
    fn compared(&self, op: &BoolOp, path: &Expr, other: &Expr) -> Outcome {
        let Some(Place { path: name, shape }) = self.place(path)? else { return Ok(()) };
        let same = match (other, shape) {
            (Expr::Number { .. }, Shape::Number)
            | (Expr::String { .. } | Expr::RawString { .. }, Shape::Text)
            | (Expr::Bool { .. }, Shape::Flag)
            | (Expr::Array { .. }, Shape::Texts) => true,
            (Expr::Null { .. }, _) => matches!(op, BoolOp::Eq | BoolOp::Ne),
            (
                Expr::Number { .. }
                | Expr::String { .. }
                | Expr::RawString { .. }
                | Expr::Bool { .. }
                | Expr::Array { .. }
                | Expr::Set { .. }
                | Expr::Object { .. },
                _,
            ) => false,
            // Not known before it is computed.
            _ => true,
        };
        if !same {
            return Err(at(path.span(), &format!("input.{name} is never of the type it is compared with")));
        }
        let ordered = !matches!(op, BoolOp::Eq | BoolOp::Ne);
        if ordered && !ALWAYS.contains(&name.as_str()) && !self.guards.contains(&name) {
            return Err(at(
                path.span(),
                &format!(
                    "input.{name} can be null, which is less than every number: write input.{name} != null beside it"
                ),
            ));
        }
        Ok(())
    }
}
