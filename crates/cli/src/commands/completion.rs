//! `completion` and `man`: both rendered from the definition of the command line.

use std::{fs, path::Path};

use clap::CommandFactory as _;
use fireclaw_core::error::{Context, Result};

use crate::{args::Cli, ui::Ui};

/// Prints the completions of a shell.
pub fn completion(ui: Ui, shell: clap_complete::Shell) -> Result<()> {
    ui.result(&String::from_utf8_lossy(&script(shell)))
}

/// The completions of a shell.
pub fn script(shell: clap_complete::Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fireclaw", &mut text);
    text
}

/// Prints the manual page, or writes one page a command.
pub fn man(ui: Ui, dir: Option<&Path>) -> Result<()> {
    let Some(dir) = dir else {
        let mut text = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut text).context("render", "the manual page")?;
        return ui.result(&String::from_utf8_lossy(&text));
    };
    fs::create_dir_all(dir).context("create folder", dir.display())?;
    clap_mangen::generate_to(Cli::command(), dir).context("write manual pages to", dir.display())
}
