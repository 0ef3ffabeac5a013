// SPDX-License-Identifier: Apache-2.0
//! Evaluation, on a thread for each policy. Callers wait at most [`PATIENCE`].

use std::fmt;
use std::num::NonZeroU32;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cvmm_reason::Reason;
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, LimitError, Value};

use super::{MAX_FILE, MAX_REASONS, MAX_TEXT, PATIENCE, RULE, TIME, input, lint};

/// Questions that may wait for the thread.
const QUEUE: usize = 256;
/// Evaluations of one question: the timer also counts while other processes run.
const TRIES: u32 = 3;
/// Work between two looks at the clock.
const INTERVAL: NonZeroU32 = NonZeroU32::new(16).unwrap();
/// For deep nesting.
const STACK: usize = 8 << 20;

/// Rego code that is ready to be evaluated.
pub struct Rego {
    name: String,
    patience: Duration,
    /// Moves to the thread with the first question.
    engine: Mutex<Option<Engine>>,
    /// The thread starts with the first question: policies are read before the gate enters its sandbox, and a
    /// thread that exists already would stay outside. `None` if it could not be started.
    questions: OnceLock<Option<SyncSender<Question>>>,
}

impl fmt::Debug for Rego {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rego").field("name", &self.name).finish_non_exhaustive()
    }
}

struct Question {
    document: Value,
    until: Instant,
    answer: Sender<Vec<Reason>>,
}

impl Rego {
    /// Reads code and lints it.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn load(name: &str, text: &str) -> Result<Self, String> {
        Self::load_with(name, text, PATIENCE)
    }

    /// With another limit than [`PATIENCE`]: on a busy machine, tests of correct code must not fail.
    pub(super) fn load_with(name: &str, text: &str, patience: Duration) -> Result<Self, String> {
        if text.len() > MAX_FILE {
            return Err(format!("{name} has {} bytes, at most {MAX_FILE} are read", text.len()));
        }
        let mut engine = Engine::new();
        engine.set_execution_timer_config(ExecutionTimerConfig { limit: TIME, check_interval: INTERVAL });
        engine.set_strict_builtin_errors(true);
        // Extensions come before functions of the same name.
        let failed = |error: anyhow::Error| format!("{name}: {error:#}");
        engine.add_extension("sprintf".to_owned(), 2, Box::new(sprintf)).map_err(failed)?;
        engine.add_extension("concat".to_owned(), 2, Box::new(concat)).map_err(failed)?;
        engine.add_policy(name.to_owned(), text.to_owned()).map_err(failed)?;
        for module in engine.get_modules() {
            lint::check(module).map_err(|problem| format!("{name}: {problem}"))?;
        }
        engine.compile_with_entrypoint(&RULE.into()).map_err(failed)?;
        Ok(Self {
            name: name.to_owned(),
            patience,
            engine: Mutex::new(Some(engine)),
            questions: OnceLock::new(),
        })
    }

    /// Starts the thread.
    fn start(&self) -> Option<SyncSender<Question>> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let (questions, waiting) = sync_channel(QUEUE);
        let thread = thread::Builder::new().name("rego".to_owned()).stack_size(STACK);
        match thread.spawn(move || answer_all(&mut engine, &waiting)) {
            Ok(_) => Some(questions),
            Err(error) => {
                tracing::error!(%error, name = self.name, "cannot start a thread for Rego code");
                None
            }
        }
    }

    /// What the code has against `document`; empty only if it allows.
    #[must_use]
    pub fn ask(&self, document: &serde_json::Value) -> Vec<Reason> {
        let name = &self.name;
        if !input::fits(document, &input::DOCUMENT) {
            return vec![Reason::new(
                "rego.input",
                format!("{name} was not evaluated: the document is incomplete"),
            )];
        }
        let (answer, answered) = channel();
        let question = Question {
            document: Value::from(document.clone()),
            until: Instant::now() + self.patience,
            answer,
        };
        let late = || vec![Reason::new("rego.time", format!("{name} did not answer in time"))];
        let Some(questions) = self.questions.get_or_init(|| self.start()) else {
            return vec![Reason::new(
                "rego.error",
                format!("cannot start a thread for {name}; reload the policies"),
            )];
        };
        if questions.try_send(question).is_err() {
            return late();
        }
        match answered.recv_timeout(self.patience) {
            Ok(reasons) => reasons,
            Err(RecvTimeoutError::Timeout) => late(),
            Err(RecvTimeoutError::Disconnected) => {
                vec![Reason::new(
                    "rego.error",
                    format!("the thread of {name} has ended; reload the policies"),
                )]
            }
        }
    }
}

fn answer_all(engine: &mut Engine, waiting: &Receiver<Question>) {
    for Question { document, until, answer } in waiting {
        // The caller has given up.
        if Instant::now() >= until {
            continue;
        }
        // It may give up now.
        let _ = answer.send(evaluate(engine, &document));
    }
}

fn evaluate(engine: &mut Engine, document: &Value) -> Vec<Reason> {
    for _ in 0..TRIES {
        engine.set_input(document.clone());
        match engine.eval_rule(RULE.to_owned()) {
            Ok(value) => return verdict(&value),
            Err(error) => {
                let text = format!("{error:#}");
                let late = error.chain().any(|cause| cause.downcast_ref::<LimitError>().is_some());
                if !late && !text.contains("time limit") {
                    return vec![Reason::new("rego.error", shortened(&text))];
                }
            }
        }
    }
    vec![Reason::new("rego.time", format!("an evaluation took more than {} ms", TIME.as_millis()))]
}

/// The reasons of a verdict of exactly the right form; any other value is a denial.
fn verdict(value: &Value) -> Vec<Reason> {
    let wrong = |problem: &str| {
        vec![Reason::new(
            "rego.result",
            format!("{RULE} is not {{\"allow\": bool, \"reasons\": [strings]}}: {problem}"),
        )]
    };
    let object = match value {
        Value::Undefined => {
            return vec![Reason::new(
                "rego.undefined",
                format!("{RULE} is undefined: no rule gives it a value"),
            )];
        }
        Value::Object(object) => object,
        _ => return wrong("it is not an object"),
    };
    if object.len() != 2 {
        return wrong("it does not have exactly these two keys");
    }
    let Some(Value::Bool(allow)) = object.get(&Value::from("allow")) else {
        return wrong("allow is not a boolean");
    };
    let mut texts = Vec::new();
    let mut take = |value: &Value| match value {
        Value::String(text) if texts.len() < MAX_REASONS && text.len() <= MAX_TEXT => {
            texts.push(text.to_string());
            true
        }
        _ => false,
    };
    let fit = match object.get(&Value::from("reasons")) {
        Some(Value::Array(items)) => items.iter().all(&mut take),
        Some(Value::Set(items)) => items.iter_sorted().all(&mut take),
        _ => return wrong("reasons is not an array or a set"),
    };
    if !fit {
        return wrong(&format!("reasons is not at most {MAX_REASONS} strings of at most {MAX_TEXT} bytes"));
    }
    match (allow, texts.is_empty()) {
        (true, true) => Vec::new(),
        (true, false) => wrong("it allows, and has reasons against it"),
        (false, true) => vec![Reason::new("rego.denied", "the policy's Rego code refuses without a reason")],
        (false, false) => {
            texts.into_iter().map(|text| Reason::new("rego.denied", shortened(&text))).collect()
        }
    }
}

/// Shortened for an answer and the log.
fn shortened(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(512).collect()
}

/// A scalar as text.
fn plain(value: &Value) -> anyhow::Result<String> {
    match value {
        Value::Null => Ok("null".to_owned()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::String(text) => Ok(text.to_string()),
        Value::Number(_) => Ok(value.to_string()),
        _ => anyhow::bail!("only strings, numbers, booleans and null can be formatted"),
    }
}

fn add(text: &mut String, part: &str) -> anyhow::Result<()> {
    if text.len() + part.len() > MAX_TEXT {
        anyhow::bail!("a text of more than {MAX_TEXT} bytes");
    }
    text.push_str(part);
    Ok(())
}

/// `sprintf` without widths and without nested values, so that no text is long.
#[expect(clippy::needless_pass_by_value, reason = "what the interpreter calls")]
fn sprintf(arguments: Vec<Value>) -> anyhow::Result<Value> {
    let [Value::String(format), Value::Array(values)] = arguments.as_slice() else {
        anyhow::bail!("sprintf takes a string and an array");
    };
    let (mut text, mut values) = (String::new(), values.iter());
    let mut rest = format.as_ref();
    while let Some((before, after)) = rest.split_once('%') {
        add(&mut text, before)?;
        let mut verb = after.chars();
        match verb.next() {
            Some('%') => add(&mut text, "%")?,
            Some('v' | 's' | 'd' | 't') => {
                let value = values.next().ok_or_else(|| anyhow::anyhow!("sprintf has too few values"))?;
                add(&mut text, &plain(value)?)?;
            }
            Some('x') => {
                let value = values.next().and_then(|value| value.as_u64().ok());
                let value = value.ok_or_else(|| anyhow::anyhow!("%x is for numbers of 64 bits"))?;
                add(&mut text, &format!("{value:x}"))?;
            }
            _ => anyhow::bail!("sprintf supports %v, %s, %d, %t, %x and %%"),
        }
        rest = verb.as_str();
    }
    add(&mut text, rest)?;
    if values.next().is_some() {
        anyhow::bail!("sprintf has too many values");
    }
    Ok(Value::from(text))
}

#[expect(clippy::needless_pass_by_value, reason = "what the interpreter calls")]
fn concat(arguments: Vec<Value>) -> anyhow::Result<Value> {
    let [Value::String(between), parts] = arguments.as_slice() else {
        anyhow::bail!("concat takes a string and an array or a set of strings");
    };
    let mut text = String::new();
    let mut first = true;
    let mut put = |part: &Value| {
        let Value::String(part) = part else { anyhow::bail!("concat takes strings") };
        if !first {
            add(&mut text, between)?;
        }
        first = false;
        add(&mut text, part)
    };
    match parts {
        Value::Array(parts) => parts.iter().try_for_each(&mut put)?,
        Value::Set(parts) => parts.iter_sorted().try_for_each(&mut put)?,
        _ => anyhow::bail!("concat takes an array or a set"),
    }
    Ok(Value::from(text))
}
