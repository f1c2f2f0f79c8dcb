//! Every system call has a page, a function and a check by one name.

use crate::sources::Source;

/// The numbers, and with them the names.
const CALLS: &str = "abi/src/call.rs";
/// The table from numbers to functions.
const TABLE: &str = "kernel/syscalls/src/lib.rs";
/// The checks that run on the machine.
const CHECKS: &str = "tests/suite/src/by_call.rs";
/// What every page says.
const SECTIONS: &[&str] =
    &["## In", "## Out", "## Refusals", "## Who may", "## Bounded or restartable", "## Cost"];

/// The calls that lack something.
pub fn findings(sources: &[Source]) -> Vec<String> {
    let text = |path: &str| {
        sources.iter().find(|source| source.path == path).map_or("", |source| source.text.as_str())
    };
    let calls = calls(text(CALLS));
    if calls.is_empty() {
        return vec![format!("{CALLS}: no calls found")];
    }
    let mut found = Vec::new();
    for (variant, number) in calls {
        let name = snake(&variant);
        match handler(text(TABLE), &variant) {
            None => found.push(format!("{TABLE}: nothing answers Call::{variant}")),
            // A number kept for later has nothing to describe yet.
            Some(Handler::Refused) => continue,
            Some(Handler::Function(function)) if function != name => {
                found.push(format!("{TABLE}: {function} answers {name}"));
            }
            Some(Handler::Function(_)) => {}
        }
        let path = format!("docs/spec/{name}.md");
        let page = text(&path);
        if page.lines().next() != Some(&format!("# {name}")) {
            found.push(format!("{path}: no page, or its title is not {name}"));
        }
        if !page.contains(&format!("Call {number}")) {
            found.push(format!("{path}: its number {number} is missing (\"Call {number}\")"));
        }
        let lacks = SECTIONS.iter().filter(|section| !page.contains(**section));
        found.extend(lacks.map(|section| format!("{path}: no section \"{section}\"")));
        if !text(CHECKS).contains(&format!("(\"{name}\", {name})")) {
            found.push(format!("{CHECKS}: no check {name}"));
        }
    }
    found
}

/// `Name = number,` of the enumeration.
fn calls(text: &str) -> Vec<(String, u32)> {
    let inside = text.lines().skip_while(|line| !line.starts_with("pub enum Call"));
    let inside = inside.take_while(|line| *line != "}");
    inside
        .filter_map(|line| {
            let (name, number) = line.trim().strip_suffix(',')?.split_once(" = ")?;
            Some((name.to_string(), number.parse().ok()?))
        })
        .collect()
}

enum Handler {
    /// The last part of the function's path.
    Function(String),
    /// The number is known and answers `BAD_HYP`.
    Refused,
}

/// What the table of calls does for a variant.
fn handler(text: &str, variant: &str) -> Option<Handler> {
    let word = format!("Call::{variant}");
    let mut arms = text.lines().filter_map(|line| line.split_once(" => "));
    let (_, does) = arms.find(|(left, _)| left.split('|').any(|name| name.trim() == word))?;
    let does = does.trim_start_matches("return ");
    if does.contains("BadHyp") || does.starts_with("no_such_call(") {
        return Some(Handler::Refused);
    }
    // `ipc::call(...)` or `serve(..., create::create_pd)`: the function is what the last path ends with.
    let (_, name) = does.rsplit_once("::")?;
    let end = name.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(name.len());
    Some(Handler::Function(name.get(..end)?.to_string()))
}

/// `CreatePd` as `create_pd`.
fn snake(variant: &str) -> String {
    let mut name = String::new();
    for letter in variant.chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources;

    #[test]
    fn the_calls_of_this_tree_have_all_three() {
        assert_eq!(findings(&sources::all().unwrap()), Vec::<String>::new());
    }

    fn tree(table: &str, page: &str, checks: &str) -> Vec<String> {
        let files = [
            (CALLS, "pub enum Call {\n    CreatePd = 2,\n}\n"),
            (TABLE, table),
            ("docs/spec/create_pd.md", page),
            (CHECKS, checks),
        ];
        let source =
            |(path, text): (&str, &str)| Source { path: path.to_string(), text: text.to_string() };
        findings(&files.map(source))
    }

    #[test]
    fn each_thing_that_is_missing_is_named() {
        let arm = "Call::CreatePd => create::create_pd(cpu),\n";
        let page = format!("# create_pd\n\nCall 2.\n\n{}\n", SECTIONS.join("\n\n"));
        let check = "(\"create_pd\", create_pd)";
        assert_eq!(tree(arm, &page, check), Vec::<String>::new());
        let served = "Call::CreatePd => serve(cpu, token, create::create_pd),\n";
        assert_eq!(tree(served, &page, check), Vec::<String>::new());
        for refused in ["no_such_call(cpu)", "return no_such_call(cpu)"] {
            let arm = format!("Call::CreatePd => {refused},\n");
            assert_eq!(tree(&arm, "", ""), Vec::<String>::new());
        }
        let later = "Call::X | Call::CreatePd => Err(Status::BadHyp),\n";
        assert_eq!(tree(later, "", ""), Vec::<String>::new());
        assert!(tree("", &page, check)[0].contains("nothing answers"));
        assert!(
            tree(&arm.replace("create_pd(", "make("), &page, check)[0].contains("make answers")
        );
        assert!(tree(arm, &page.replace("## Cost", ""), check)[0].contains("## Cost"));
        assert!(tree(arm, &page.replace("Call 2", "Call 3"), check)[0].contains("number 2"));
        assert!(tree(arm, &page, "")[0].contains("no check create_pd"));
    }
}
