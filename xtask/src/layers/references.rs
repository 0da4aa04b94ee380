//! The paths that a source file names in `use` declarations, in code, in attributes and inside
//! macro calls, resolved as far as the file itself allows.

use std::collections::HashMap;

use anyhow::{Result, bail};
use proc_macro2::{Spacing, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, ItemMod, ItemUse, Lit, Meta, UseTree};

/// A path with its segments, and where it is named.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Named {
    /// From the crate's root (`crate::…`) or beginning with a crate's name. A glob ends in `*`.
    pub path: Vec<String>,
    pub line: usize,
}

/// A test module in a separate file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct TestModule {
    pub name: String,
    /// Its `#[path]`.
    pub path: Option<String>,
}

/// What a file refers to, except in its tests.
#[derive(Debug, Default)]
pub(super) struct References {
    pub named: Vec<Named>,
    /// Lines with `unsafe`.
    pub unsafe_lines: Vec<usize>,
    pub test_modules: Vec<TestModule>,
    /// Whether it begins with `#![forbid(unsafe_code)]`.
    pub forbids_unsafe: bool,
    /// Macros that print, with their lines.
    pub prints: Vec<(String, usize)>,
    /// Lines that show a path unescaped: `.display()` that is not passed directly to `visible`.
    pub raw_paths: Vec<usize>,
    /// The text of its strings, with their lines; documentation is excluded.
    pub strings: Vec<(String, usize)>,
}

/// Macros that print.
const PRINTING: [&str; 5] = ["print", "println", "eprint", "eprintln", "dbg"];
/// The function that makes foreign text harmless.
const CLEANS: &str = "visible";

impl References {
    /// Parses the file of `module`, in the crate that paths call `crate_name`.
    pub(super) fn of(text: &str, module: &[String], crate_name: &str) -> Result<Self> {
        let file = match syn::parse_file(text) {
            Ok(file) => file,
            Err(error) => bail!("line {}: {error}", error.span().start().line),
        };
        let mut imports = Imports {
            module: module.to_vec(),
            ..Default::default()
        };
        imports.visit_file(&file);
        let mut visitor = Visitor {
            crate_name,
            module: module.to_vec(),
            imports: imports.names,
            found: Self {
                forbids_unsafe: file.attrs.iter().any(forbids_unsafe),
                ..Self::default()
            },
        };
        visitor.visit_file(&file);
        Ok(visitor.found)
    }
}

/// What each imported name stands for; one map for the whole file.
#[derive(Default)]
struct Imports {
    module: Vec<String>,
    names: HashMap<String, Vec<String>>,
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let mut leaves = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut leaves);
        for (path, name, _) in leaves {
            let path = relative(&path, &self.module);
            // A name that only repeats itself (`use serde;`) stands for the crate.
            if path.as_slice() != [name.as_str()] {
                self.names.insert(name, path);
            }
        }
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        if let Some((_, name)) = &item.rename {
            self.names
                .insert(name.to_string(), vec![item.ident.to_string()]);
        }
    }
}

struct Visitor<'a> {
    crate_name: &'a str,
    module: Vec<String>,
    imports: HashMap<String, Vec<String>>,
    found: References,
}

impl Visitor<'_> {
    fn name(&mut self, path: &[String], line: usize) {
        let mut path = relative(path, &self.module);
        if let Some(first) = path.first()
            && let Some(meant) = self.imports.get(first)
        {
            path = [meant, &path[1..]].concat();
        }
        if path.first().is_some_and(|first| first == self.crate_name) {
            path[0] = "crate".to_string();
        }
        self.found.named.push(Named { path, line });
    }

    /// Paths in tokens that are not parsed: `a::b::c`. `is_cleaned` if they are the argument of
    /// `visible`.
    fn tokens(&mut self, tokens: TokenStream, is_cleaned: bool) {
        let mut path: Vec<String> = Vec::new();
        let mut line = 0;
        let mut colons = 0;
        let mut last = String::new();
        let mut after_dot = false;
        for token in tokens {
            let before = std::mem::take(&mut last);
            let was_dot = std::mem::take(&mut after_dot);
            match &token {
                TokenTree::Ident(ident) => {
                    last = ident.to_string();
                    if was_dot && last == "display" && !is_cleaned {
                        self.found.raw_paths.push(ident.span().start().line);
                    }
                }
                TokenTree::Punct(p) if p.as_char() == '!' => {
                    self.prints(&before, p.span().start().line);
                }
                TokenTree::Punct(p) => after_dot = p.as_char() == '.',
                _ => {}
            }
            match token {
                TokenTree::Ident(ident) => {
                    if ident == "unsafe" {
                        self.found.unsafe_lines.push(ident.span().start().line);
                    }
                    if colons != 2 || path.is_empty() {
                        self.flush(&mut path, line);
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(p)
                    if p.as_char() == ':' && (colons == 1 || p.spacing() == Spacing::Joint) =>
                {
                    colons += 1;
                }
                TokenTree::Group(group) => {
                    self.flush(&mut path, line);
                    colons = 0;
                    self.tokens(group.stream(), before == CLEANS);
                }
                TokenTree::Literal(literal) => {
                    self.flush(&mut path, line);
                    colons = 0;
                    if let Lit::Str(string) = Lit::new(literal) {
                        self.visit_lit_str(&string);
                    }
                }
                _ => {
                    self.flush(&mut path, line);
                    colons = 0;
                }
            }
        }
        self.flush(&mut path, line);
    }

    fn prints(&mut self, name: &str, line: usize) {
        if PRINTING.contains(&name) {
            self.found.prints.push((name.to_string(), line));
        }
    }

    fn flush(&mut self, path: &mut Vec<String>, line: usize) {
        let whole = std::mem::take(path);
        self.name_in_code(&whole, line);
    }

    /// A single name is local, or imported by a `use` that is checked itself.
    fn name_in_code(&mut self, path: &[String], line: usize) {
        if path.len() > 1 {
            self.name(path, line);
        }
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !attributes(item).iter().any(is_test) {
            visit::visit_item(self, item);
        } else if let syn::Item::Mod(module) = item
            && module.content.is_none()
        {
            self.found.test_modules.push(TestModule {
                name: module.ident.to_string(),
                path: module.attrs.iter().find_map(path_attribute),
            });
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let mut leaves = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut leaves);
        for (path, _, line) in leaves {
            self.name(&path, line);
        }
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        let line = item.ident.span().start().line;
        self.name(&[item.ident.to_string()], line);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        let line = path
            .segments
            .first()
            .map_or(0, |s| s.ident.span().start().line);
        self.name_in_code(&segments, line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        visit::visit_macro(self, call);
        if let Some(name) = call.path.segments.last() {
            self.prints(&name.ident.to_string(), name.ident.span().start().line);
        }
        self.tokens(call.tokens.clone(), false);
    }

    fn visit_lit_str(&mut self, string: &'ast syn::LitStr) {
        let line = string.span().start().line;
        self.found.strings.push((string.value(), line));
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if attribute.path().is_ident("doc") {
            return;
        }
        visit::visit_attribute(self, attribute);
        if let Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone(), false);
        }
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        let cleans = matches!(&*call.func, Expr::Path(name)
            if name.path.segments.last().is_some_and(|last| last.ident == CLEANS));
        let (found, given) = (self.found.raw_paths.len(), call.args.first());
        visit::visit_expr_call(self, call);
        let is_path =
            |given: &Expr| matches!(given, Expr::MethodCall(shown) if shown.method == "display");
        if cleans && given.is_some_and(is_path) {
            self.found.raw_paths.truncate(found);
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if call.method == "display" {
            self.found.raw_paths.push(call.method.span().start().line);
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_unsafe(&mut self, expr: &'ast syn::ExprUnsafe) {
        self.found
            .unsafe_lines
            .push(expr.unsafe_token.span.start().line);
        visit::visit_expr_unsafe(self, expr);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let Some(token) = &signature.unsafety {
            self.found.unsafe_lines.push(token.span.start().line);
        }
        visit::visit_signature(self, signature);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let Some(token) = &item.unsafety {
            self.found.unsafe_lines.push(token.span.start().line);
        }
        visit::visit_item_impl(self, item);
    }
}

/// Each path of a `use`, its local name, and its line.
fn flatten(
    tree: &UseTree,
    prefix: &mut Vec<String>,
    leaves: &mut Vec<(Vec<String>, String, usize)>,
) {
    let leaf = |prefix: &[String], last: &syn::Ident| {
        if last == "self" {
            prefix.to_vec()
        } else {
            [prefix, &[last.to_string()]].concat()
        }
    };
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            flatten(&path.tree, prefix, leaves);
            prefix.pop();
        }
        UseTree::Name(name) => {
            let path = leaf(prefix, &name.ident);
            let known_by = path.last().cloned().unwrap_or_default();
            leaves.push((path, known_by, name.ident.span().start().line));
        }
        UseTree::Rename(rename) => {
            let path = leaf(prefix, &rename.ident);
            let line = rename.ident.span().start().line;
            leaves.push((path, rename.rename.to_string(), line));
        }
        UseTree::Glob(glob) => {
            let path = [prefix.as_slice(), &["*".to_string()]].concat();
            let line = glob.star_token.spans[0].start().line;
            leaves.push((path, "*".to_string(), line));
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, prefix, leaves);
            }
        }
    }
}

/// Resolves `self::` and `super::` against the module; everything else is unchanged.
fn relative(path: &[String], module: &[String]) -> Vec<String> {
    let mut base = [&["crate".to_string()], module].concat();
    let mut rest = path;
    if !matches!(rest.first().map(String::as_str), Some("self" | "super")) {
        return path.to_vec();
    }
    while let Some((first, tail)) = rest.split_first() {
        match first.as_str() {
            "self" => {}
            "super" => {
                base.pop();
            }
            _ => break,
        }
        rest = tail;
    }
    [&base, rest].concat()
}

fn attributes(item: &syn::Item) -> &[Attribute] {
    use syn::Item as I;
    match item {
        I::Const(i) => &i.attrs,
        I::Enum(i) => &i.attrs,
        I::Fn(i) => &i.attrs,
        I::Impl(i) => &i.attrs,
        I::Macro(i) => &i.attrs,
        I::Mod(i) => &i.attrs,
        I::Static(i) => &i.attrs,
        I::Struct(i) => &i.attrs,
        I::Trait(i) => &i.attrs,
        I::Type(i) => &i.attrs,
        I::Use(i) => &i.attrs,
        _ => &[],
    }
}

/// `#[cfg(test)]` and nothing weaker: `cfg(any(test, …))` may be compiled into the product.
fn is_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute
            .parse_args::<syn::Path>()
            .is_ok_and(|path| path.is_ident("test"))
}

fn path_attribute(attribute: &Attribute) -> Option<String> {
    match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn forbids_unsafe(attribute: &Attribute) -> bool {
    attribute.path().is_ident("forbid")
        && attribute
            .parse_args::<syn::Path>()
            .is_ok_and(|path| path.is_ident("unsafe_code"))
}
