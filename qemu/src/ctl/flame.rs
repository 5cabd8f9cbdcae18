//! Samples of an instance, with names: stacks folded into lines, and drawn as a flame graph.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Result, bail, ensure};

use crate::image::symbols::Symbols;

/// Samples as they come from `GET /profile`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// The build they are of.
    pub build: u64,
    /// How often a stack was seen; the innermost address first.
    pub stacks: BTreeMap<Vec<u32>, u64>,
    /// Samples that the instance had no room for; `None`: the answer ended too early to say.
    pub lost: Option<u32>,
}

impl Samples {
    /// Reads an answer.
    pub fn parse(answer: &[u8]) -> Result<Self> {
        let line = answer.split(|octet| *octet == b'\n').next();
        let line = line.unwrap_or_default();
        let mut words = str::from_utf8(line).unwrap_or_default().split(' ');
        let (Some("godwit-profile"), Some("1")) = (words.next(), words.next()) else {
            bail!("the instance's profile is not understood");
        };
        let build = words.next().map(|word| u64::from_str_radix(word, 16));
        let Some(Ok(build)) = build else {
            bail!("the instance's profile does not say of which build it is");
        };
        let words = answer.get(line.len() + 1..).unwrap_or_default();
        let mut words = words.as_chunks().0.iter().copied().map(u32::from_le_bytes);
        let mut samples = Self {
            build,
            ..Self::default()
        };
        while let Some(count) = words.next() {
            if count == 0 {
                samples.lost = words.next();
                break;
            }
            ensure!(count < 1024, "a sample of {count} addresses");
            let stack: Vec<u32> = words.by_ref().take(count as usize).collect();
            if stack.len() == count as usize {
                *samples.stacks.entry(stack).or_default() += 1;
            }
        }
        Ok(samples)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.stacks.values().sum()
    }

    /// The stacks with names, what was inlined too, the outermost first; how often each was seen.
    pub fn fold(&self, symbols: &Symbols) -> Folded {
        let mut known: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        let mut name = |address: u32| -> Vec<String> {
            let found = known.entry(address).or_insert_with(|| {
                let frames = symbols.frames(address.into()).into_iter();
                let names = frames.map(|frame| match frame.function.is_empty() {
                    true => format!("{address:#x}"),
                    false => clean(&frame.function),
                });
                names.collect()
            });
            found.clone()
        };
        let mut folded = Folded::default();
        for (stack, count) in &self.stacks {
            let mut names = Vec::new();
            for (depth, address) in stack.iter().enumerate() {
                // A return address may be the first octet of the next function.
                names.extend(name(address - u32::from(depth > 0 && *address > 0)));
            }
            names.reverse();
            *folded.0.entry(names).or_default() += count;
        }
        folded
    }
}

/// A name without what separates names.
fn clean(name: &str) -> String {
    name.replace([';', '\n'], ":")
}

/// Stacks by their names, the outermost first, and how often each was seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Folded(pub BTreeMap<Vec<String>, u64>);

/// Pixels: the width of a graph, the height of a frame, the width of a character.
const WIDTH: f64 = 1200.0;
const HEIGHT: usize = 17;
const CHARACTER: f64 = 7.0;
/// What is narrower is left out.
const NARROWEST: f64 = 0.2;

/// A function within its callers.
#[derive(Default)]
struct Node {
    count: u64,
    callees: BTreeMap<String, Node>,
}

impl Node {
    fn depth(&self) -> usize {
        1 + self.callees.values().map(Node::depth).max().unwrap_or(0)
    }
}

impl Folded {
    /// The lines that other tools read: names joined by semicolons, and how often.
    pub fn lines(&self) -> String {
        let line = |(names, count): (&Vec<String>, &u64)| format!("{} {count}\n", names.join(";"));
        self.0.iter().map(line).collect()
    }

    /// The functions that ran most, with how often they were innermost, and at all.
    pub fn functions(&self) -> Vec<(String, u64, u64)> {
        let mut all: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (names, count) in &self.0 {
            let mut once: Vec<&str> = names.iter().map(String::as_str).collect();
            if let Some(inner) = once.last() {
                all.entry(inner).or_default().0 += count;
            }
            once.sort_unstable();
            once.dedup();
            for name in once {
                all.entry(name).or_default().1 += count;
            }
        }
        let mut all: Vec<_> = all
            .into_iter()
            .map(|(name, (inner, any))| (name.to_owned(), inner, any))
            .collect();
        all.sort_by_key(|(_, inner, any)| std::cmp::Reverse((*inner, *any)));
        all
    }

    /// A flame graph: who calls is below who is called, as wide as it was often seen. A click on a frame
    /// makes it as wide as the picture; a click on the lowest shows all again.
    pub fn svg(&self, title: &str) -> String {
        let mut root = Node::default();
        for (names, count) in &self.0 {
            root.count += count;
            let mut node = &mut root;
            for name in names {
                node = node.callees.entry(name.clone()).or_default();
                node.count += count;
            }
        }
        let height = (root.depth() + 3) * HEIGHT;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fbfaf5\"/>\n\
             <text x=\"{}\" y=\"{HEIGHT}\" text-anchor=\"middle\">{}</text>\n",
            WIDTH / 2.0,
            escape(title),
        );
        let total = root.count.max(1);
        draw(&mut svg, "all", &root, (0, total, 0), height);
        svg.push_str(SCRIPT);
        svg.push_str("</svg>\n");
        svg
    }
}

/// Draws a function whose samples begin at `before` of `total`, then what it called.
fn draw(svg: &mut String, name: &str, node: &Node, place: (u64, u64, usize), height: usize) {
    let (before, total, depth) = place;
    let scale = WIDTH / total as f64;
    let (x, width) = (before as f64 * scale, node.count as f64 * scale);
    if width < NARROWEST {
        return;
    }
    let y = height - (depth + 2) * HEIGHT;
    let share = 100.0 * node.count as f64 / total as f64;
    let (label, name) = (escape(&cut(name, width)), escape(name));
    // Writing to a String cannot fail.
    let _ = writeln!(
        svg,
        "<g class=\"f\" data-x=\"{x:.2}\" data-w=\"{width:.2}\"><title>{name}: {} samples, \
         {share:.2}%</title><rect x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{}\" \
         fill=\"{}\"/><text x=\"{:.2}\" y=\"{}\">{label}</text></g>",
        node.count,
        HEIGHT - 1,
        color(&name),
        x + 3.0,
        y + HEIGHT - 5,
    );
    let mut before = before;
    for (name, callee) in &node.callees {
        draw(svg, name, callee, (before, total, depth + 1), height);
        before += callee.count;
    }
}

/// As much of a name as there is room for.
fn cut(name: &str, width: f64) -> String {
    let room = ((width - 6.0) / CHARACTER) as usize;
    match (name.chars().count() <= room, room) {
        (true, _) => name.into(),
        (false, 0..3) => String::new(),
        (false, _) => name.chars().take(room - 2).chain("..".chars()).collect(),
    }
}

/// The same warm colour for the same crate whenever it is drawn.
fn color(name: &str) -> String {
    let crate_name = name.trim_start_matches(['&', '<', ' ']).split("::").next();
    let hash = crate_name.unwrap_or_default().bytes();
    let hash = hash.fold(17u32, |hash, b| hash.wrapping_mul(31) ^ u32::from(b));
    format!(
        "hsl({},{}%,{}%)",
        hash % 55,
        65 + hash / 64 % 30,
        62 + hash / 4096 % 14
    )
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

/// Widens what is clicked on, with what it called and who called it.
const SCRIPT: &str = r#"<script><![CDATA[
const all = [...document.querySelectorAll("g.f")].map(g => ({
  g, x: +g.dataset.x, w: +g.dataset.w, name: g.firstChild.textContent.replace(/: \d+ samples.*/, ""),
  rect: g.querySelector("rect"), text: g.querySelector("text")
}));
for (const one of all) one.g.onclick = () => {
  const scale = 1200 / one.w;
  for (const f of all) {
    const left = Math.max((f.x - one.x) * scale, 0);
    const right = Math.min((f.x + f.w - one.x) * scale, 1200);
    f.g.style.display = right - left > 0.5 ? "" : "none";
    f.rect.setAttribute("x", left);
    f.rect.setAttribute("width", Math.max(right - left, 0));
    f.text.setAttribute("x", left + 3);
    const room = Math.floor((right - left - 6) / 7);
    f.text.textContent = f.name.length <= room ? f.name : room < 3 ? "" : f.name.slice(0, room - 2) + "..";
  }
};
]]></script>
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        let mut answer = b"godwit-profile 1 00000000000000ab 997\n".to_vec();
        answer.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        answer
    }

    #[test]
    fn equal_stacks_are_counted_together_and_the_end_says_what_was_lost() {
        let samples = Samples::parse(&words(&[2, 5, 6, 1, 5, 2, 5, 6, 0, 9])).unwrap();
        assert_eq!((samples.build, samples.lost), (0xab, Some(9)));
        assert_eq!(samples.count(), 3);
        assert_eq!(samples.stacks[&vec![5, 6]], 2);
    }

    #[test]
    fn an_answer_cut_short_is_read_as_far_as_it_goes_and_nonsense_is_refused() {
        let cut = Samples::parse(&words(&[2, 5, 6, 3, 5])).unwrap();
        assert_eq!((cut.count(), cut.lost), (1, None));
        assert!(Samples::parse(&words(&[u32::MAX, 1])).is_err());
        assert!(Samples::parse(b"").is_err());
        assert!(Samples::parse(b"godwit-profile 1 xyz 5\n").is_err());
        assert!(Samples::parse(b"godwit-profile 2 ab 5\n").is_err());
    }

    fn folded() -> Folded {
        let stack = |names: &str| names.split(';').map(String::from).collect();
        Folded(BTreeMap::from([
            (stack("run;serve<T>;copy"), 3),
            (stack("run;idle"), 5),
            (stack("run"), 2),
        ]))
    }

    #[test]
    fn folded_stacks_are_lines_and_functions_are_counted() {
        let folded = folded();
        assert_eq!(folded.lines(), "run 2\nrun;idle 5\nrun;serve<T>;copy 3\n");
        let functions = folded.functions();
        assert_eq!(functions[0], ("idle".into(), 5, 5));
        assert_eq!(functions[2], ("run".into(), 2, 10));
    }

    #[test]
    fn a_graph_has_a_frame_for_each_function_as_wide_as_it_was_often_seen() {
        let svg = folded().svg("a & b");
        assert_eq!(svg.matches("<g class").count(), 5);
        assert!(svg.contains("a &amp; b"));
        assert!(svg.contains("<title>serve&lt;T&gt;: 3 samples, 30.00%</title>"));
        assert!(svg.contains("width=\"600.00\""), "half of the samples");
        assert!(!svg.contains("NaN"));
        assert!(Folded::default().svg("").contains("</svg>"));
    }
}
