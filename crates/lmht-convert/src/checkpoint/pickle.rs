//! The pickle inside a PyTorch file: a program for a small stack machine, run without ever calling anything.
//!
//! A pickle may name any Python function and call it. Here a name stays a name, and a call becomes an [`Node::Object`] that
//! keeps what it was called with. Every instruction of protocols 0 to 5 is known, so that whatever a training script puts
//! beside the weights is walked over.
//!
//! A file made to do harm gains nothing: values lie in one list and refer to each other by number, so a remembered value
//! costs four bytes wherever it stands, nothing is copied, and nothing recurses. Texts stay where they are in the file.

use std::collections::HashMap;

/// The largest pickle: the tensors are not in it, so a network of ten thousand tensors takes 2 MB.
pub(super) const MAX_LENGTH: usize = 16 << 20;

/// The most values that a pickle may make, of some 40 bytes each; a training state has some ten thousand.
const MAX_VALUES: usize = 2_000_000;

/// Where the advice of every refusal leads.
pub(super) const SAVE_AGAIN: &str = "save it again in PyTorch >= 1.6 with torch.save(model.state_dict(), path)";

/// Which value: its place in [`Pickle::nodes`].
pub(super) type Id = u32;

/// What is nothing but there: None, fractions, bytes, and numbers beyond 64 bits.
const OTHER: Id = 0;
const FALSE: Id = 1;
const TRUE: Id = 2;

/// A value.
#[derive(Debug)]
pub(super) enum Node<'a> {
    Other,
    Bool(bool),
    Text(&'a str),
    Int(i64),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// Keys and values in turn.
    Dict(Vec<Id>),
    /// `module`, `name`: a class or a function.
    Global(&'a str, &'a str),
    /// What a class or function gave, with what was put into it afterwards.
    Object(Box<Object>),
    /// What the file keeps outside the pickle, by its description: for PyTorch a storage.
    Persistent(Id),
}

/// A call that was not made.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) callable: Id,
    pub(super) arguments: Id,
    /// Keys and values in turn, where it is a kind of dictionary.
    pub(super) entries: Vec<Id>,
    /// Its attributes.
    pub(super) state: Option<Id>,
}

/// A pickle's values.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    pub(super) root: Id,
    /// Bytes up to and with its last instruction.
    pub(super) length: usize,
}

impl<'a> Pickle<'a> {
    pub(super) fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id as usize]
    }

    /// What the file keeps outside the pickle: the descriptions.
    pub(super) fn persistent(&self) -> impl Iterator<Item = Id> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Persistent(id) => Some(*id),
            _ => None,
        })
    }

    pub(super) fn text(&self, id: Id) -> Option<&'a str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn int(&self, id: Id) -> Option<i64> {
        match self.node(id) {
            Node::Int(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(values) => Some(values),
            _ => None,
        }
    }

    /// The name of a class or function, and the arguments of its call.
    pub(super) fn call(&self, id: Id) -> Option<(&'a str, &'a str, &[Id])> {
        let Node::Object(object) = self.node(id) else { return None };
        match self.node(object.callable) {
            Node::Global(module, name) => Some((module, name, self.tuple(object.arguments)?)),
            _ => None,
        }
    }

    /// Runs a pickle at the beginning of `bytes`.
    ///
    /// # Errors
    /// What is wrong with it, to follow the file's name: an unknown instruction, a stack out of order, an end in the middle,
    /// more than a checkpoint has.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        Machine {
            input: Input { bytes: &bytes[..bytes.len().min(MAX_LENGTH)], at: 0, is_whole: bytes.len() <= MAX_LENGTH },
            nodes: vec![Node::Other, Node::Bool(false), Node::Bool(true)],
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
        .run()
    }
}

/// The bytes that are left; the position is for messages.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether these are all, or those within the limit.
    is_whole: bool,
}

impl<'a> Input<'a> {
    fn end(&self) -> String {
        if self.is_whole {
            format!("its pickle ends at byte {} in the middle of a value; is the file cut off?", self.bytes.len())
        } else {
            format!(
                "its pickle has more than {MAX_LENGTH} bytes, expected at most that beside the tensors; {SAVE_AGAIN}"
            )
        }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let taken = self.bytes[self.at..].get(..n).ok_or_else(|| self.end())?;
        self.at += n;
        Ok(taken)
    }

    /// A whole number without sign of `n` bytes, at most 8.
    fn number(&mut self, n: usize) -> Result<u64, String> {
        let mut bytes = [0; 8];
        bytes[..n].copy_from_slice(self.take(n)?);
        Ok(u64::from_le_bytes(bytes))
    }

    /// Bytes behind their number, which takes `n` bytes.
    fn counted(&mut self, n: usize) -> Result<&'a [u8], String> {
        let length = self.number(n)?;
        // A length beyond the address space is beyond the file as well.
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(|| self.end())?;
        let line = self.take(end)?;
        self.at += 1;
        Ok(line)
    }

    fn name(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.line()?).map_err(|_| "its pickle has a name that is not UTF-8".into())
    }

    /// A number in decimal, as in protocol 0.
    fn decimal(&mut self) -> Result<Option<i64>, String> {
        let line = self.line()?;
        Ok(std::str::from_utf8(line).ok().and_then(|text| text.trim_end_matches('L').parse().ok()))
    }
}

/// A whole number in two's complement, where 64 bits hold it.
fn signed(bytes: &[u8]) -> Option<i64> {
    let sign = if bytes.last().is_some_and(|last| *last >= 0x80) { 0xff } else { 0 };
    let mut number = [sign; 8];
    number.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(number))
}

struct Machine<'a> {
    input: Input<'a>,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    fn run(mut self) -> Result<Pickle<'a>, String> {
        loop {
            let at = self.input.at;
            let code = self.input.take(1)?[0];
            if code == b'.' {
                return match (self.stack.as_slice(), self.marks.as_slice()) {
                    ([root], []) => Ok(Pickle { root: *root, length: self.input.at, nodes: self.nodes }),
                    _ => Err("its pickle has something left over at its end".into()),
                };
            }
            if self.nodes.len() + self.stack.len() + self.marks.len() + self.memo.len() > MAX_VALUES {
                return Err(format!("its pickle makes more than {MAX_VALUES} values; {SAVE_AGAIN}"));
            }
            self.step(code, at)?;
        }
    }

    fn step(&mut self, code: u8, at: usize) -> Result<(), String> {
        match code {
            // The protocol, and the length of what follows: both change nothing.
            0x80 => self.input.take(1).map(drop),
            0x95 => self.input.take(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'N' => self.push_other(),
            0x88 | 0x89 => {
                self.stack.push(if code == 0x88 { TRUE } else { FALSE });
                Ok(())
            }
            b'0' => match self.marks.last() {
                Some(mark) if *mark == self.stack.len() => self.marks.pop().map(drop).ok_or_else(no_value),
                _ => self.pop().map(drop),
            },
            b'1' => self.pop_to_mark().map(drop),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }

            // Numbers.
            b'K' | b'M' => {
                let number = self.input.number(if code == b'K' { 1 } else { 2 })?;
                self.push_int(i64::try_from(number).ok())
            }
            b'J' => {
                let number = signed(self.input.take(4)?);
                self.push_int(number)
            }
            0x8a | 0x8b => {
                let number = signed(self.input.counted(if code == 0x8a { 1 } else { 4 })?);
                self.push_int(number)
            }
            b'I' | b'L' => {
                let number = self.input.decimal()?;
                self.push_int(number)
            }
            b'G' => self.input.take(8).map(drop).and_then(|()| self.push_other()),
            b'F' => self.input.line().map(drop).and_then(|()| self.push_other()),

            // Texts and bytes.
            0x8c | b'X' | 0x8d => {
                let text = self.input.counted(width(code, [0x8c, b'X', 0x8d]))?;
                self.push_text(text)
            }
            // Texts of Python 2, which may also be bytes.
            b'U' | b'T' => {
                let text = self.input.counted(if code == b'U' { 1 } else { 4 })?;
                self.push_text(text)
            }
            b'V' => {
                let text = self.input.line()?;
                if text.contains(&b'\\') { self.push_other() } else { self.push_text(text) }
            }
            b'S' => {
                let line = self.input.line()?;
                let quoted = line.len() >= 2 && line.first() == line.last() && !line.contains(&b'\\');
                if quoted { self.push_text(&line[1..line.len() - 1]) } else { self.push_other() }
            }
            b'C' | b'B' | 0x8e | 0x96 => {
                let n = if code == 0x96 { 8 } else { width(code, [b'C', b'B', 0x8e]) };
                self.input.counted(n).map(drop).and_then(|()| self.push_other())
            }
            // A buffer from outside, and its being read-only.
            0x97 => self.push_other(),
            0x98 => self.top().map(drop),

            // Containers.
            b')' => self.push(Node::Tuple(Vec::new())),
            b']' | 0x8f => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            0x85..=0x87 => {
                let n = usize::from(code - 0x84);
                let floor = self.floor();
                let start = self.stack.len().checked_sub(n).filter(|start| *start >= floor).ok_or_else(no_value)?;
                let values = self.stack.split_off(start);
                self.push(Node::Tuple(values))
            }
            b't' => {
                let values = self.pop_to_mark()?;
                self.push(Node::Tuple(values))
            }
            b'l' | 0x91 => {
                let values = self.pop_to_mark()?;
                self.push(Node::List(values))
            }
            b'd' => {
                let values = self.pop_to_mark()?;
                self.push(Node::Dict(Vec::new()))?;
                self.put_entries(values)
            }
            b'a' => {
                let value = self.pop()?;
                self.put_values(vec![value])
            }
            b'e' | 0x90 => {
                let values = self.pop_to_mark()?;
                self.put_values(values)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.put_entries(vec![key, value])
            }
            b'u' => {
                let values = self.pop_to_mark()?;
                self.put_entries(values)
            }

            // The memo.
            b'q' | b'r' => {
                let key = self.input.number(if code == b'q' { 1 } else { 4 })?;
                self.keep(key)
            }
            b'p' => {
                let key = self.input.decimal()?;
                self.keep(memo_key(key)?)
            }
            0x94 => self.keep(self.memo.len() as u64),
            b'h' | b'j' => {
                let key = self.input.number(if code == b'h' { 1 } else { 4 })?;
                self.recall(key)
            }
            b'g' => {
                let key = self.input.decimal()?;
                self.recall(memo_key(key)?)
            }

            // Names and calls.
            b'c' => {
                let (module, name) = (self.input.name()?, self.input.name()?);
                self.push(Node::Global(module, name))
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id: Id| match &self.nodes[id as usize] {
                    Node::Text(text) => Ok(*text),
                    _ => Err("its pickle has a name that is no text".to_string()),
                };
                let global = Node::Global(text(module)?, text(name)?);
                self.push(global)
            }
            // A name by its number in a registry of the program that wrote it.
            0x82..=0x84 => {
                self.input.take(1 << (code - 0x82))?;
                self.push(Node::Global("copyreg", "extension"))
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let callable = self.pop()?;
                self.push_object(callable, arguments)
            }
            0x92 => {
                let _keywords = self.pop()?;
                let arguments = self.pop()?;
                let callable = self.pop()?;
                self.push_object(callable, arguments)
            }
            b'o' => {
                let mut values = self.pop_to_mark()?;
                if values.is_empty() {
                    return Err(no_value());
                }
                let callable = values.remove(0);
                self.push(Node::Tuple(values))?;
                let arguments = self.pop()?;
                self.push_object(callable, arguments)
            }
            b'i' => {
                let (module, name) = (self.input.name()?, self.input.name()?);
                let values = self.pop_to_mark()?;
                self.push(Node::Global(module, name))?;
                let callable = self.pop()?;
                self.push(Node::Tuple(values))?;
                let arguments = self.pop()?;
                self.push_object(callable, arguments)
            }
            b'b' => {
                let state = self.pop()?;
                let top = self.top()?;
                if let Node::Object(object) = &mut self.nodes[top as usize] {
                    object.state = Some(state);
                }
                Ok(())
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))
            }
            b'P' => {
                let id = self.input.line()?;
                self.push_text(id)?;
                let id = self.pop()?;
                self.push(Node::Persistent(id))
            }
            other => Err(format!(
                "its pickle has the instruction {other:#04x} at byte {at}, which no version of pickle knows; is the file \
                 damaged? fetch it again"
            )),
        }
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), String> {
        self.stack.push(self.nodes.len() as Id);
        self.nodes.push(node);
        Ok(())
    }

    fn push_other(&mut self) -> Result<(), String> {
        self.stack.push(OTHER);
        Ok(())
    }

    fn push_int(&mut self, number: Option<i64>) -> Result<(), String> {
        match number {
            Some(number) => self.push(Node::Int(number)),
            None => self.push_other(),
        }
    }

    fn push_text(&mut self, text: &'a [u8]) -> Result<(), String> {
        match std::str::from_utf8(text) {
            Ok(text) => self.push(Node::Text(text)),
            Err(_) => self.push_other(),
        }
    }

    fn push_object(&mut self, callable: Id, arguments: Id) -> Result<(), String> {
        // The one call that a state_dict needs: an ordered dictionary is a dictionary.
        if let (Node::Global("collections", "OrderedDict"), Node::Tuple(values)) =
            (&self.nodes[callable as usize], &self.nodes[arguments as usize])
        {
            let entries = match *values.as_slice() {
                [] => Some(Vec::new()),
                [list] => self.pairs(list),
                _ => None,
            };
            if let Some(entries) = entries {
                return self.push(Node::Dict(entries));
            }
        }
        self.push(Node::Object(Box::new(Object { callable, arguments, entries: Vec::new(), state: None })))
    }

    /// The pairs of a list, as Python 2 gives them to an ordered dictionary. They are taken out of the list: the same list
    /// could be given any number of times.
    fn pairs(&mut self, list: Id) -> Option<Vec<Id>> {
        let Node::List(list) = &mut self.nodes[list as usize] else { return None };
        let list = std::mem::take(list);
        let pair = |id: &Id| match &self.nodes[*id as usize] {
            Node::List(pair) | Node::Tuple(pair) => <[Id; 2]>::try_from(pair.as_slice()).ok(),
            _ => None,
        };
        Some(list.iter().map(pair).collect::<Option<Vec<_>>>()?.concat())
    }

    /// How far down a value may be taken: to the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, String> {
        if self.stack.len() > self.floor() { Ok(self.stack[self.stack.len() - 1]) } else { Err(no_value()) }
    }

    fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("its pickle takes values up to a mark that it never set")?;
        Ok(self.stack.split_off(mark))
    }

    /// Puts values into the list on top; what an object of another kind takes in is of no use here.
    fn put_values(&mut self, values: Vec<Id>) -> Result<(), String> {
        let top = self.top()?;
        match &mut self.nodes[top as usize] {
            Node::List(list) => list.extend(values),
            Node::Object(_) => {}
            _ => return Err("its pickle puts a value into something that takes none".into()),
        }
        Ok(())
    }

    /// Puts keys and values into the dictionary on top.
    fn put_entries(&mut self, entries: Vec<Id>) -> Result<(), String> {
        if entries.len() % 2 == 1 {
            return Err("its pickle has a key without a value".into());
        }
        let top = self.top()?;
        match &mut self.nodes[top as usize] {
            Node::Dict(dict) => dict.extend(entries),
            Node::Object(object) => object.entries.extend(entries),
            _ => return Err("its pickle puts a value into something that takes none".into()),
        }
        Ok(())
    }

    fn keep(&mut self, key: u64) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), String> {
        let value = *self.memo.get(&key).ok_or("its pickle recalls a value that it never kept")?;
        self.stack.push(value);
        Ok(())
    }
}

/// The bytes of a length: 1, 4 or 8 by the instruction.
fn width(code: u8, codes: [u8; 3]) -> usize {
    if code == codes[0] {
        1
    } else if code == codes[1] {
        4
    } else {
        8
    }
}

fn memo_key(key: Option<i64>) -> Result<u64, String> {
    key.and_then(|key| u64::try_from(key).ok()).ok_or_else(|| "its pickle keeps a value under no number".into())
}

fn no_value() -> String {
    "its pickle takes a value where there is none".into()
}

/// A text of the file for a message: no longer than a line, and nothing that moves a terminal.
pub(super) fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(120).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(120).is_some() {
        short.push('…');
    }
    short
}
