// SPDX-License-Identifier: Apache-2.0
//! Counts over the code: sizes of files, unsafe blocks, panics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::Visit;

use crate::modules::{attributes, only_for_tests};

/// Of one production file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Its lines, without those of tests.
    pub lines: usize,
    /// `unsafe {}`.
    pub unsafe_blocks: usize,
    /// `.unwrap()` and `.expect("..")`.
    pub unwraps: usize,
}

impl File {
    /// Of a file's text.
    pub fn of(text: &str, parsed: &syn::File) -> Self {
        let mut tests = 0;
        for item in parsed.items.iter().filter(|item| only_for_tests(attributes(item))) {
            let span = item.span();
            let first =
                attributes(item).first().map_or(span.start().line, |attribute| attribute.span().start().line);
            tests += span.end().line + 1 - first;
        }
        let mut code = Code::default();
        code.visit_file(parsed);
        let Code { unsafe_blocks, unwraps } = code;
        Self { lines: text.lines().count() - tests, unsafe_blocks, unwraps }
    }
}

/// Of all production files.
#[derive(Debug, Default)]
pub struct Figures {
    files: BTreeMap<PathBuf, File>,
}

impl Figures {
    /// Adds a file.
    pub fn add(&mut self, path: &Path, file: File) {
        self.files.insert(path.to_owned(), file);
    }

    /// How many files.
    pub fn count(&self) -> usize {
        self.files.len()
    }

    /// Lines of all files below a folder.
    pub fn lines(&self, folder: &Path) -> usize {
        self.files.iter().filter(|(path, _)| path.starts_with(folder)).map(|(_, file)| file.lines).sum()
    }

    /// The largest file.
    pub fn largest(&self) -> Option<(&Path, usize)> {
        self.files.iter().map(|(path, file)| (path.as_path(), file.lines)).max_by_key(|(_, lines)| *lines)
    }

    /// Lines of the median file.
    pub fn median(&self) -> usize {
        let mut lines: Vec<_> = self.files.values().map(|file| file.lines).collect();
        lines.sort_unstable();
        lines.get(lines.len() / 2).copied().unwrap_or_default()
    }

    /// Unsafe blocks.
    pub fn unsafe_blocks(&self) -> usize {
        self.files.values().map(|file| file.unsafe_blocks).sum()
    }

    /// `unwrap` and `expect`.
    pub fn unwraps(&self) -> usize {
        self.files.values().map(|file| file.unwraps).sum()
    }
}

#[derive(Default)]
struct Code {
    unsafe_blocks: usize,
    unwraps: usize,
}

impl<'ast> Visit<'ast> for Code {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !only_for_tests(attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.unsafe_blocks += 1;
        syn::visit::visit_expr_unsafe(self, block);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let text =
            matches!(call.args.first(), Some(syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(_), .. })));
        if call.method == "unwrap" || (call.method == "expect" && text) {
            self.unwraps += 1;
        }
        syn::visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
    }
}

impl Code {
    fn tokens(&mut self, tokens: TokenStream) {
        let mut dot = false;
        let mut keyword = false;
        for token in tokens {
            match &token {
                TokenTree::Ident(ident) if dot && (ident == "unwrap" || ident == "expect") => {
                    self.unwraps += 1
                }
                TokenTree::Group(group) => {
                    let brace = group.delimiter() == proc_macro2::Delimiter::Brace;
                    self.unsafe_blocks += usize::from(keyword && brace);
                    self.tokens(group.stream());
                }
                _ => {}
            }
            dot = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '.');
            keyword = matches!(&token, TokenTree::Ident(ident) if ident == "unsafe");
        }
    }
}
