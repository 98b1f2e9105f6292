//! Which variables a template uses for certain: those without which it has no value, whatever the others hold.
//!
//! What stands behind `default`, `is defined`, the right side of `and` and `or`, or a branch is not among them.

use std::collections::BTreeSet;

use minijinja::machinery::ast;

use crate::expr::eval::FUNCTIONS;
use crate::expr::evaluate;
use crate::expr::evaluate::FileOptions;
use crate::expr::parse;
use crate::expr::parse::Whitespace;
use crate::expr::value::Data;
use crate::expr::value::Value;

/// Returns the variables that the trusted text anywhere in a value needs. What cannot be parsed needs nothing.
pub fn needed_by_value(value: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    collect(value, &mut all);
    all
}

fn collect(value: &Value, all: &mut BTreeSet<String>) {
    match &value.data {
        Data::Str(text) if value.marks.trusted => all.extend(needed_by_template(text)),
        Data::List(items) => items.iter().for_each(|v| collect(v, all)),
        Data::Dict(entries) => entries.values().for_each(|v| collect(v, all)),
        _ => {}
    }
}

fn needed_by_template(text: &str) -> BTreeSet<String> {
    if !parse::has_markup(text) {
        return BTreeSet::new();
    }
    let source = parse::raw_backslashes(text);
    parse::template(&source, Whitespace::default()).map(|tree| Walk::over(&tree)).unwrap_or_default()
}

/// Returns the variables that a bare expression needs.
pub fn needed_by_expression(text: &str) -> BTreeSet<String> {
    if parse::has_markup(text) {
        return needed_by_template(text);
    }
    let source = parse::raw_backslashes_of_expression(text);
    let Ok(tree) = parse::expression(&source) else { return BTreeSet::new() };
    let mut walk = Walk::default();
    walk.expr(&tree);
    walk.names
}

/// Returns the variables that a template file needs.
pub fn needed_by_file(text: &str) -> BTreeSet<String> {
    let unix = text.replace("\r\n", "\n");
    let parsed = evaluate::header(&unix, FileOptions::default())
        .and_then(|(options, body)| parse::template(body, options.whitespace));
    parsed.map(|tree| Walk::over(&tree)).unwrap_or_default()
}

#[derive(Default)]
struct Walk<'a> {
    names: BTreeSet<String>,
    /// Names that the template itself defines. One set is enough: what is defined anywhere in it is not asked of the world.
    bound: BTreeSet<&'a str>,
}

impl<'a> Walk<'a> {
    fn over(tree: &'a ast::Stmt<'a>) -> BTreeSet<String> {
        let mut walk = Walk::default();
        walk.statement(tree);
        walk.names
    }

    fn statement(&mut self, statement: &'a ast::Stmt<'a>) {
        match statement {
            ast::Stmt::Template(template) => template.children.iter().for_each(|child| self.statement(child)),
            ast::Stmt::EmitExpr(emit) => self.expr(&emit.expr),
            ast::Stmt::IfCond(branch) => self.expr(&branch.expr),
            ast::Stmt::ForLoop(each) => self.expr(&each.iter),
            ast::Stmt::Set(set) => {
                self.expr(&set.expr);
                self.bind(&set.target);
            }
            ast::Stmt::SetBlock(set) => self.bind(&set.target),
            ast::Stmt::Macro(declaration) => {
                self.bound.insert(declaration.name);
            }
            _ => {}
        }
    }

    fn bind(&mut self, target: &'a ast::Expr<'a>) {
        match target {
            ast::Expr::Var(var) => {
                self.bound.insert(var.id);
            }
            ast::Expr::List(list) => list.items.iter().for_each(|item| self.bind(item)),
            _ => {}
        }
    }

    fn expr(&mut self, expr: &'a ast::Expr<'a>) {
        match expr {
            ast::Expr::Var(var) => {
                if !self.bound.contains(var.id) && !FUNCTIONS.contains(&var.id) && var.id != "omit" {
                    self.names.insert(var.id.to_owned());
                }
            }
            ast::Expr::Const(_) => {}
            ast::Expr::Slice(slice) => self.expr(&slice.expr),
            ast::Expr::UnaryOp(op) => self.expr(&op.expr),
            ast::Expr::BinOp(op) => {
                self.expr(&op.left);
                if !matches!(op.op, ast::BinOpKind::ScAnd | ast::BinOpKind::ScOr) {
                    self.expr(&op.right);
                }
            }
            // A comparison that fails ends a chain: only its first two sides are surely looked at.
            ast::Expr::Compare(compare) => {
                self.expr(&compare.expr);
                compare.ops.iter().take(1).for_each(|op| self.expr(&op.expr));
            }
            ast::Expr::IfExpr(choice) => self.expr(&choice.test_expr),
            ast::Expr::Filter(filter) => {
                if !matches!(filter.name, "default" | "d" | "ansible.builtin.default") {
                    filter.expr.iter().for_each(|expr| self.expr(expr));
                    self.args(&filter.args);
                }
            }
            ast::Expr::Test(test) => {
                if !matches!(test.name, "defined" | "undefined") {
                    self.expr(&test.expr);
                    self.args(&test.args);
                }
            }
            ast::Expr::GetAttr(attr) => self.expr(&attr.expr),
            ast::Expr::GetItem(item) => {
                self.expr(&item.expr);
                self.expr(&item.subscript_expr);
            }
            ast::Expr::Call(call) => {
                let is_lookup =
                    matches!(&call.expr, ast::Expr::Var(var) if matches!(var.id, "lookup" | "query" | "q"));
                self.expr(&call.expr);
                // `lookup('vars', …, default=…)` and `errors='ignore'` forgive what is missing.
                if !is_lookup {
                    self.args(&call.args);
                }
            }
            ast::Expr::List(list) => list.items.iter().for_each(|item| self.expr(item)),
            ast::Expr::Map(map) => map.values.iter().for_each(|value| self.expr(value)),
        }
    }

    fn args(&mut self, args: &'a [ast::CallArg<'a>]) {
        for arg in args {
            match arg {
                ast::CallArg::Pos(expr) | ast::CallArg::Kwarg(_, expr) => self.expr(expr),
                ast::CallArg::PosSplat(_) | ast::CallArg::KwargSplat(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_used_for_certain_is_needed() {
        let table = [
            ("a.b", "a"),
            ("a | default(b)", ""),
            ("a is defined and a.b", ""),
            ("a and b", "a"),
            ("a if b else c", "b"),
            ("a == b", "a b"),
            ("a | join(b)", "a b"),
            ("not a", "a"),
            ("[a, {'k': b}]", "a b"),
            ("lookup('env', a)", ""),
            ("a.get(b)", "a b"),
        ];
        for (text, expected) in table {
            let names: Vec<String> = needed_by_expression(text).into_iter().collect();
            assert_eq!(names.join(" "), expected, "{text}");
        }
    }

    #[test]
    fn names_that_a_template_defines_are_not_needed() {
        let text =
            "{% set x = a %}{{ x }}{% for i in b %}{{ i }}{{ c }}{% endfor %}{% if d %}{{ e }}{% endif %}";

        let names: Vec<String> = needed_by_file(text).into_iter().collect();

        assert_eq!(names.join(" "), "a b d");
    }
}
