// SPDX-License-Identifier: Apache-2.0
//! The modules of a crate, as the compiler finds them from its root, without what only tests see.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

/// Reads a file of the workspace; `None` if there is none.
pub type Read<'a> = &'a dyn Fn(&Path) -> Option<String>;

/// A name that a `use` brings into a module.
#[derive(Clone, Debug)]
pub struct Use {
    /// The path, with `crate`, `self` and `super` as written.
    pub path: Vec<String>,
    /// The name that it gets; `None` for a glob.
    pub name: Option<String>,
    /// Whether it is seen from outside of the module (`pub`, in whatever scope).
    pub public: bool,
    /// Where it is.
    pub line: usize,
}

/// A module.
#[derive(Debug, Default)]
pub struct Module {
    /// Its file. An inline module has that of its parent.
    pub file: PathBuf,
    /// Its name; empty for the root.
    pub name: String,
    /// Index of its parent.
    pub parent: Option<usize>,
    /// Indices of its children.
    pub children: BTreeMap<String, usize>,
    /// What is defined in it.
    pub items: BTreeSet<String>,
    /// What `use` brings into it.
    pub uses: Vec<Use>,
    /// Paths of at least two segments in its code, with their lines.
    pub paths: Vec<(Vec<String>, usize)>,
}

/// The modules of a target; the first is the root.
#[derive(Default)]
#[allow(missing_debug_implementations, reason = "syntax trees have none")]
pub struct Tree {
    /// All modules.
    pub modules: Vec<Module>,
    /// The files, parsed.
    pub files: BTreeMap<PathBuf, syn::File>,
}

impl Tree {
    /// Follows `mod` from the root file.
    ///
    /// # Errors
    ///
    /// A file is missing or is not Rust.
    pub fn load(root: &Path, read: Read<'_>) -> Result<Self> {
        let mut tree = Self::default();
        let folder = root.parent().unwrap_or(root).to_owned();
        tree.file(root, String::new(), None, &folder, read)?;
        Ok(tree)
    }

    /// Adds the module of a file; `folder` is where its children's files are.
    fn file(
        &mut self,
        path: &Path,
        name: String,
        parent: Option<usize>,
        folder: &Path,
        read: Read<'_>,
    ) -> Result<usize> {
        let text = read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = syn::parse_file(&text).with_context(|| format!("cannot parse {}", path.display()))?;
        let index = self.modules.len();
        self.modules.push(Module { file: path.to_owned(), name, parent, ..Module::default() });
        self.items(index, &file.items, folder, read)?;
        self.files.insert(path.to_owned(), file);
        Ok(index)
    }

    fn items(&mut self, index: usize, items: &[syn::Item], folder: &Path, read: Read<'_>) -> Result<()> {
        for item in items.iter().filter(|item| !only_for_tests(attributes(item))) {
            let module = self.modules.get_mut(index).context("no such module")?;
            match item {
                syn::Item::Mod(inner) => self.child(index, inner, folder, read)?,
                syn::Item::Use(item) => {
                    let public = !matches!(item.vis, syn::Visibility::Inherited);
                    let line = item.use_token.span.start().line;
                    flatten(&item.tree, &mut Vec::new(), &mut |path, name| {
                        module.uses.push(Use { path, name, public, line });
                    });
                }
                other => {
                    module.items.extend(defined(other));
                    let mut code = Code::default();
                    code.visit_item(other);
                    module.paths.extend(code.paths);
                }
            }
        }
        Ok(())
    }

    fn child(&mut self, parent: usize, item: &syn::ItemMod, folder: &Path, read: Read<'_>) -> Result<()> {
        let name = item.ident.to_string();
        let file = self.modules.get(parent).context("no such module")?.file.clone();
        let own = folder.join(&name);
        let index = if let Some((_, items)) = &item.content {
            let index = self.modules.len();
            self.modules.push(Module { file, name: name.clone(), parent: Some(parent), ..Module::default() });
            self.items(index, items, &own, read)?;
            index
        } else {
            let given = path_attribute(&item.attrs).map(|path| file.parent().unwrap_or(&file).join(path));
            let candidates = match given {
                Some(path) => vec![path],
                None => vec![own.with_extension("rs"), own.join("mod.rs")],
            };
            let Some(path) = candidates.iter().find(|path| read(path).is_some()) else {
                bail!("{}: no file for mod {name}", file.display());
            };
            let own = if path.ends_with("mod.rs") { path.parent().unwrap_or(path).to_owned() } else { own };
            self.file(path, name.clone(), Some(parent), &own, read)?
        };
        self.modules.get_mut(parent).context("no such module")?.children.insert(name, index);
        Ok(())
    }
}

/// The file that `#[path]` names.
pub fn path_attribute(attributes: &[syn::Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}

/// Whether an item is compiled for tests only: `#[test]`, or a `cfg` that names `test` other than in `not()`.
pub fn only_for_tests(attributes: &[syn::Attribute]) -> bool {
    fn names_test(meta: &syn::Meta) -> bool {
        match meta {
            syn::Meta::Path(path) => path.is_ident("test"),
            syn::Meta::List(list) if list.path.is_ident("not") => false,
            syn::Meta::List(list) => {
                let parser = syn::punctuated::Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated;
                list.parse_args_with(parser).is_ok_and(|inner| inner.iter().any(names_test))
            }
            syn::Meta::NameValue(_) => false,
        }
    }
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        path.is_ident("test") || (path.is_ident("cfg") && names_test(&attribute.meta))
    })
}

/// The attributes of an item.
pub fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::ExternCrate(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::ForeignMod(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::TraitAlias(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Union(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn defined(item: &syn::Item) -> Option<String> {
    let name = match item {
        syn::Item::Const(item) => &item.ident,
        syn::Item::Enum(item) => &item.ident,
        syn::Item::Fn(item) => &item.sig.ident,
        syn::Item::Macro(item) => item.ident.as_ref()?,
        syn::Item::Static(item) => &item.ident,
        syn::Item::Struct(item) => &item.ident,
        syn::Item::Trait(item) => &item.ident,
        syn::Item::TraitAlias(item) => &item.ident,
        syn::Item::Type(item) => &item.ident,
        syn::Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// Calls `found` with each path of a `use` and the name that it gets.
fn flatten(
    tree: &syn::UseTree,
    prefix: &mut Vec<String>,
    found: &mut impl FnMut(Vec<String>, Option<String>),
) {
    match tree {
        syn::UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            flatten(&path.tree, prefix, found);
            prefix.pop();
        }
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, prefix, found)),
        syn::UseTree::Glob(_) => found(prefix.clone(), None),
        syn::UseTree::Name(name) => leaf(prefix, &name.ident.to_string(), None, found),
        syn::UseTree::Rename(name) => {
            leaf(prefix, &name.ident.to_string(), Some(name.rename.to_string()), found);
        }
    }
}

fn leaf(
    prefix: &[String],
    ident: &str,
    rename: Option<String>,
    found: &mut impl FnMut(Vec<String>, Option<String>),
) {
    let mut path = prefix.to_vec();
    // `use a::{self}` is `use a`.
    if ident != "self" || path.is_empty() {
        path.push(ident.to_owned());
    }
    let name = rename.or_else(|| path.last().cloned());
    found(path, name);
}

/// Collects paths in code, those in arguments of macros included.
#[derive(Default)]
struct Code {
    paths: Vec<(Vec<String>, usize)>,
}

impl<'ast> Visit<'ast> for Code {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let (Some(first), true) = (path.segments.first(), path.segments.len() > 1) {
            let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.paths.push((segments, first.ident.span().start().line));
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // In a function.
        let line = item.use_token.span.start().line;
        flatten(&item.tree, &mut Vec::new(), &mut |mut path, name| {
            if name.is_none() {
                path.push("*".to_owned());
            }
            self.paths.push((path, line));
        });
    }

    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !only_for_tests(attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !only_for_tests(&item.attrs) {
            syn::visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        syn::visit::visit_macro(self, call);
    }
}

impl Code {
    /// Finds `a::b` in tokens.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut line, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => {
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Ident(ident) => {
                    self.end(&mut path, line);
                    line = ident.span().start().line;
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.end(&mut path, line);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.end(&mut path, line);
    }

    fn end(&mut self, path: &mut Vec<String>, line: usize) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.paths.push((path, line));
        }
    }
}
