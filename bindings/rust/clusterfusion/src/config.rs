//! What a model is.

use std::path::Path;

use crate::error::{invalid, Error, Result};
use crate::native::{self, make, queried};
use crate::{sys, Activation, Family, Norm, Token};

/// Scaling of rotary embeddings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// None.
    #[default]
    None,
    /// `rope_type` "llama3" as in transformers.
    Llama3 {
        /// `factor`
        factor: f64,
        /// `low_freq_factor`
        low_freq_factor: f64,
        /// `high_freq_factor`
        high_freq_factor: f64,
        /// `original_max_position_embeddings`
        original_max_position: usize,
    },
}

/// What a model is: from config.json by [`read`](Self::read), from a model by [`Model::config`](crate::Model::config), or filled in for
/// [`Model::create`](crate::Model::create). Newer versions of this crate may add fields: end with `..ModelConfig::new(family)`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Family.
    pub family: Family,
    /// Normalisation.
    pub norm: Norm,
    /// Activation of the MLP.
    pub activation: Activation,
    /// x + attention(norm1(x)) + mlp(norm2(x)); else the MLP reads norm2(x + attention(norm1(x))).
    pub parallel_residual: bool,
    /// Biases on Q, K, V and O.
    pub attention_bias: bool,
    /// Biases on gate, up and down.
    pub mlp_bias: bool,
    /// The head is the embedding.
    pub tied_embeddings: bool,
    /// At most 1024.
    pub n_layers: usize,
    /// Sizes: at most 2^20 each.
    pub hidden_size: usize,
    /// Heads of queries.
    pub n_heads: usize,
    /// Divides n_heads: equal for MHA, fewer for GQA, 1 for MQA.
    pub n_kv_heads: usize,
    /// 32, 64, 80, 96, 128 or 256.
    pub head_dim: usize,
    /// Leading dimensions of each head that rotate; even, 2 ..= head_dim.
    pub rotary_dim: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Tokens there are.
    pub vocab_size: usize,
    /// A recommendation: sessions may exceed it.
    pub max_position_embeddings: usize,
    /// Added to the variance.
    pub norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Scaling of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Begins a text.
    pub bos_token: Option<Token>,
    /// End a text; at most 8.
    pub eos_tokens: Vec<Token>,
}

impl ModelConfig {
    /// A family's norm and activation; all sizes are 0, because there are no defaults for a model.
    pub fn new(family: Family) -> Self {
        let (norm, activation) = match family {
            Family::GptNeox => (Norm::Layer, Activation::Gelu),
            Family::Llama => (Norm::Rms, Activation::SwiGlu),
        };
        Self {
            family,
            norm,
            activation,
            parallel_residual: false,
            attention_bias: false,
            mlp_bias: false,
            tied_embeddings: false,
            n_layers: 0,
            hidden_size: 0,
            n_heads: 0,
            n_kv_heads: 0,
            head_dim: 0,
            rotary_dim: 0,
            intermediate_size: 0,
            vocab_size: 0,
            max_position_embeddings: 0,
            norm_eps: 0.0,
            rope_theta: 0.0,
            rope_scaling: RopeScaling::None,
            bos_token: None,
            eos_tokens: Vec::new(),
        }
    }

    /// Reads and checks DIRECTORY/config.json. No weights are touched. [`Error::Io`], [`Error::InvalidFile`], [`Error::Unsupported`].
    pub fn read(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = native::path("directory", directory.as_ref())?;
        // SAFETY: the path ends with NUL, and the struct can be written to.
        Self::of(&queried(|out| unsafe { sys::cf_model_config_read(directory.as_ptr(), out) })?)
    }

    pub(crate) fn of(c: &sys::cf_model_config) -> Result<Self> {
        let size = |value: i32| usize::try_from(value).map_err(|_| Error::Library(format!("libclusterfusion gave a model the size {value}")));
        Ok(Self {
            family: Family::of(c.family)?,
            norm: Norm::of(c.norm)?,
            activation: Activation::of(c.activation)?,
            parallel_residual: c.parallel_residual != 0,
            attention_bias: c.attention_bias != 0,
            mlp_bias: c.mlp_bias != 0,
            tied_embeddings: c.tied_embeddings != 0,
            n_layers: size(c.n_layers)?,
            hidden_size: size(c.hidden_size)?,
            n_heads: size(c.n_heads)?,
            n_kv_heads: size(c.n_kv_heads)?,
            head_dim: size(c.head_dim)?,
            rotary_dim: size(c.rotary_dim)?,
            intermediate_size: size(c.intermediate_size)?,
            vocab_size: size(c.vocab_size)?,
            max_position_embeddings: size(c.max_position_embeddings)?,
            norm_eps: c.norm_eps,
            rope_theta: c.rope_theta,
            rope_scaling: match c.rope_scaling {
                sys::CF_ROPE_SCALING_NONE => RopeScaling::None,
                sys::CF_ROPE_SCALING_LLAMA3 => RopeScaling::Llama3 {
                    factor: c.rope_factor,
                    low_freq_factor: c.rope_low_freq_factor,
                    high_freq_factor: c.rope_high_freq_factor,
                    original_max_position: size(c.rope_original_max_position)?,
                },
                other => return Err(Error::Library(format!("libclusterfusion gave {other} as rope_scaling, which this crate does not know"))),
            },
            bos_token: (c.bos_token >= 0).then_some(c.bos_token),
            eos_tokens: c.eos_tokens[..size(c.n_eos_tokens)?.min(c.eos_tokens.len())].to_vec(),
        })
    }

    pub(crate) fn to_struct(&self) -> Result<sys::cf_model_config> {
        let mut c = make::<sys::cf_model_config>()?;
        if self.eos_tokens.len() > c.eos_tokens.len() {
            return Err(invalid!("eos_tokens has {} tokens, expected at most {}", self.eos_tokens.len(), c.eos_tokens.len()));
        }
        c.family = self.family.raw();
        c.norm = self.norm.raw();
        c.activation = self.activation.raw();
        c.parallel_residual = self.parallel_residual.into();
        c.attention_bias = self.attention_bias.into();
        c.mlp_bias = self.mlp_bias.into();
        c.tied_embeddings = self.tied_embeddings.into();
        c.n_layers = native::number("n_layers", self.n_layers)?;
        c.hidden_size = native::number("hidden_size", self.hidden_size)?;
        c.n_heads = native::number("n_heads", self.n_heads)?;
        c.n_kv_heads = native::number("n_kv_heads", self.n_kv_heads)?;
        c.head_dim = native::number("head_dim", self.head_dim)?;
        c.rotary_dim = native::number("rotary_dim", self.rotary_dim)?;
        c.intermediate_size = native::number("intermediate_size", self.intermediate_size)?;
        c.vocab_size = native::number("vocab_size", self.vocab_size)?;
        c.max_position_embeddings = native::number("max_position_embeddings", self.max_position_embeddings)?;
        c.norm_eps = self.norm_eps;
        c.rope_theta = self.rope_theta;
        if let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } = self.rope_scaling {
            c.rope_scaling = sys::CF_ROPE_SCALING_LLAMA3;
            c.rope_factor = factor;
            c.rope_low_freq_factor = low_freq_factor;
            c.rope_high_freq_factor = high_freq_factor;
            c.rope_original_max_position = native::number("original_max_position", original_max_position)?;
        }
        c.bos_token = self.bos_token.unwrap_or(-1);
        c.n_eos_tokens = native::number("eos_tokens", self.eos_tokens.len())?;
        c.eos_tokens[..self.eos_tokens.len()].copy_from_slice(&self.eos_tokens);
        Ok(c)
    }
}
