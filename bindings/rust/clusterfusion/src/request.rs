//! A step's options as the library takes them, with the memory that it writes to.

use crate::callbacks::progress_fields;
use crate::error::{invalid, Result};
use crate::native::{self, make};
use crate::step::{Logits, Output, Step, StepOptions};
use crate::{sys, Cancellation, Model, Token};

/// Lives until the step's status has been fetched, and so do the options that it was made from.
pub(crate) struct Request<'o> {
    options: sys::cf_step_options,
    /// Boxed, because `options` points there.
    outputs: Option<Box<sys::cf_outputs>>,
    taps: Vec<sys::cf_tap>,
    logits: Vec<f32>,
    top_tokens: Vec<Token>,
    top_logprobs: Vec<f32>,
    target_logprobs: Vec<f32>,
    row_tokens: Vec<Token>,
    top_n: usize,
    vocab_size: usize,
    _options: std::marker::PhantomData<&'o mut ()>,
}

impl<'o> Request<'o> {
    /// For a step of n_rows that writes n_outputs rows; with the token sampled after each, if those are wanted.
    pub(crate) fn new(asked: &'o mut StepOptions<'_>, model: &Model, n_rows: usize, n_outputs: usize, row_tokens: bool) -> Result<Self> {
        let config = model.config();
        let vocab_size = config.vocab_size;
        let mut request = Self {
            options: make()?,
            outputs: None,
            taps: asked.taps.iter_mut().map(|tap| tap.as_struct(n_rows, config)).collect::<Result<_>>()?,
            logits: Vec::new(),
            top_tokens: Vec::new(),
            top_logprobs: Vec::new(),
            target_logprobs: Vec::new(),
            row_tokens: Vec::new(),
            top_n: asked.top_n,
            vocab_size,
            _options: std::marker::PhantomData,
        };
        request.ask_for_outputs(asked, n_outputs, row_tokens && !asked.no_sample)?;
        let options = &mut request.options;
        options.sample = i32::from(!asked.no_sample);
        options.outputs = request.outputs.as_deref().map_or(std::ptr::null(), std::ptr::from_ref);
        options.taps = native::address(&request.taps);
        options.n_taps = request.taps.len();
        (options.progress, options.progress_user) = progress_fields(&mut asked.progress);
        options.cancellation = Cancellation::raw(asked.cancellation.as_ref());
        Ok(request)
    }

    fn ask_for_outputs(&mut self, asked: &mut StepOptions<'_>, n_rows: usize, row_tokens: bool) -> Result<()> {
        let on_device = matches!(asked.logits, Logits::Device(_));
        let nothing = matches!(asked.logits, Logits::Nowhere) && asked.top_n == 0 && asked.targets.is_none() && !row_tokens;
        if nothing {
            return Ok(());
        }
        let mut outputs = make::<sys::cf_outputs>()?;
        outputs.memory = if on_device { sys::CF_MEMORY_DEVICE } else { sys::CF_MEMORY_HOST };
        outputs.rows = if asked.all_rows { sys::CF_ROWS_ALL } else { sys::CF_ROWS_LAST };
        let n_logits = n_rows.checked_mul(self.vocab_size).ok_or_else(|| invalid!("{n_rows} rows are too many"))?;
        outputs.logits = match &mut asked.logits {
            Logits::Nowhere => std::ptr::null_mut(),
            Logits::New => filled(&mut self.logits, n_logits),
            Logits::Into(logits) if logits.len() == n_logits => logits.as_mut_ptr(),
            Logits::Into(logits) => return Err(invalid!("logits has room for {} numbers, expected {n_rows} * {}", logits.len(), self.vocab_size)),
            Logits::Device(logits) => *logits,
        };
        if on_device && (asked.top_n > 0 || asked.targets.is_some()) {
            return Err(invalid!("top and targets are not to be had together with logits in device memory"));
        }
        if asked.top_n > self.vocab_size {
            return Err(invalid!("top is {}, more than the {} tokens of the model", asked.top_n, self.vocab_size));
        }
        if asked.top_n > 0 {
            outputs.top_n = native::number("top", asked.top_n)?;
            outputs.top_tokens = filled(&mut self.top_tokens, n_rows * asked.top_n);
            outputs.top_logprobs = filled(&mut self.top_logprobs, n_rows * asked.top_n);
        }
        if let Some(targets) = &asked.targets {
            if targets.len() != n_rows {
                return Err(invalid!("targets has {} tokens, expected one for each of {n_rows} rows", targets.len()));
            }
            outputs.targets = native::address(targets);
            outputs.target_logprobs = filled(&mut self.target_logprobs, n_rows);
        }
        if row_tokens && !on_device {
            outputs.row_tokens = filled(&mut self.row_tokens, n_rows);
        }
        self.outputs = Some(Box::new(outputs));
        Ok(())
    }

    pub(crate) fn raw(&self) -> *const sys::cf_step_options {
        &self.options
    }

    pub(crate) fn output(self, step: Step) -> Output {
        Output {
            step,
            all_logits: self.logits,
            target_logprobs: self.target_logprobs,
            top_n: self.top_n,
            vocab_size: self.vocab_size,
            top_tokens: self.top_tokens,
            top_logprobs: self.top_logprobs,
            row_tokens: self.row_tokens,
        }
    }
}

/// Room for `n` numbers, and its address.
fn filled<T: Clone + Default>(buffer: &mut Vec<T>, n: usize) -> *mut T {
    buffer.resize(n, T::default());
    buffer.as_mut_ptr()
}
