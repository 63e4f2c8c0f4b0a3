//! Dependency cycles between sibling modules, found from the paths in their files.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{File, exports, paths};

/// The modules that each module uses.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The sibling modules that can reach each other, each list with its parent module.
pub fn circles(files: &[File]) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for (parent, graph) in graphs(files) {
        let mut seen = BTreeSet::new();
        for module in graph.keys() {
            let reaches_back = |other: &String| reachable(&graph, other).contains(module);
            let reached = reachable(&graph, module).into_iter();
            let circle: Vec<_> = reached.filter(reaches_back).collect();
            if !circle.is_empty() && seen.insert(circle.clone()) {
                found.push((parent.join("::"), circle));
            }
        }
    }
    found
}

/// For each module, which of the modules in it uses which others in it.
fn graphs(files: &[File]) -> BTreeMap<Vec<String>, Graph> {
    let exports_of: BTreeMap<_, _> =
        files.iter().map(|file| (file.module.clone(), exports(file, files))).collect();
    let mut graphs = BTreeMap::<_, Graph>::new();
    for file in files {
        for path in paths(file) {
            let depth = file.module.iter().zip(&path).take_while(|(ours, its)| ours == its).count();
            let (Some(module), Some(name)) = (file.module.get(depth), path.get(depth)) else {
                continue;
            };
            let parent = &file.module[..depth];
            // A name that the parent re-exports is attributed to its origin.
            let origin = exports_of.get(parent).and_then(|names| names.get(name));
            let used = origin.unwrap_or(name);
            if used != module && is_module(files, parent, used) {
                let graph = graphs.entry(parent.to_vec()).or_default();
                graph.entry(module.clone()).or_default().insert(used.clone());
            }
        }
    }
    graphs
}

fn is_module(files: &[File], parent: &[String], name: &str) -> bool {
    files.iter().any(|file| {
        file.module.strip_prefix(parent).is_some_and(|rest| rest.first().is_some_and(|n| n == name))
    })
}

/// The modules that a module uses, and those that these use, and so on.
fn reachable(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for used in graph.get(module).into_iter().flatten() {
            if reached.insert(used.clone()) {
                open.push(used);
            }
        }
    }
    reached
}
