//! Enumerations of the header.

use crate::error::{Error, Result};
use crate::sys;

macro_rules! enums {
    ($($(#[$attribute:meta])* $name:ident: $($(#[doc = $doc:literal])* $variant:ident = $value:ident,)* ;)*) => {$(
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[doc = $doc])* $variant,)*
        }

        #[allow(dead_code)] // not every kind goes both ways
        impl $name {
            pub(crate) fn raw(self) -> i32 {
                match self {
                    $(Self::$variant => sys::$value,)*
                }
            }

            /// Of a value that the library gave.
            pub(crate) fn of(value: i32) -> Result<Self> {
                match value {
                    $(sys::$value => Ok(Self::$variant),)*
                    _ => Err(Error::Library(format!("libclusterfusion gave {value} as {}, which this crate does not know", stringify!($name)))),
                }
            }
        }
    )*};
}

enums! {
    /// Instruction set of the CPU backend; results are bitwise repeatable within one of them.
    CpuIsa:
        /// The best that this machine has.
        Auto = CF_CPU_ISA_AUTO,
        /// What every machine of this architecture has: NEON on Arm, scalar code on x86-64.
        Baseline = CF_CPU_ISA_BASELINE,
        /// AVX2 with FMA and F16C.
        Avx2 = CF_CPU_ISA_AVX2,
        /// AVX-512 F, BW, CD, DQ, VL.
        Avx512 = CF_CPU_ISA_AVX512,
    ;
    /// How much is told to a log closure.
    #[derive(PartialOrd, Ord)]
    LogLevel:
        /// Nothing.
        None = CF_LOG_NONE,
        /// What may not be what was wanted.
        Warning = CF_LOG_WARNING,
        /// What was done.
        Info = CF_LOG_INFO,
        /// How it was done.
        Debug = CF_LOG_DEBUG,
    ;
    /// Type of stored numbers.
    DType:
        /// The library chooses, as the option that takes it says.
        Auto = CF_DTYPE_AUTO,
        /// IEEE binary32.
        F32 = CF_DTYPE_F32,
        /// IEEE binary16.
        F16 = CF_DTYPE_F16,
        /// The upper half of an F32.
        BF16 = CF_DTYPE_BF16,
    ;
    /// Family of a model.
    Family:
        /// GPT-NeoX, such as Pythia.
        GptNeox = CF_FAMILY_GPT_NEOX,
        /// Llama.
        Llama = CF_FAMILY_LLAMA,
    ;
    /// Normalisation.
    Norm:
        /// LayerNorm with weight and bias.
        Layer = CF_NORM_LAYER,
        /// RMSNorm with weight.
        Rms = CF_NORM_RMS,
    ;
    /// Activation of the MLP.
    Activation:
        /// x/2 (1 + erf(x/√2))
        Gelu = CF_ACTIVATION_GELU,
        /// x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))): gelu_new, gelu_fast, gelu_pytorch_tanh
        GeluTanh = CF_ACTIVATION_GELU_TANH,
        /// silu(gate) · up, silu(x) = x / (1 + exp(-x))
        SwiGlu = CF_ACTIVATION_SWIGLU,
    ;
    /// How a session's steps are launched (CUDA); all give the same bits.
    LaunchMode:
        /// The library chooses.
        Auto = CF_LAUNCH_AUTO,
        /// A whole step in one persistent launch.
        Step = CF_LAUNCH_STEP,
        /// One launch for each transformer block.
        Block = CF_LAUNCH_BLOCK,
        /// One launch for each phase; no grid-wide waiting.
        Phase = CF_LAUNCH_PHASE,
    ;
    /// What a weight tensor is. Shapes: H hidden_size, D head_dim, A n_heads, G n_kv_heads, I intermediate_size, V vocab_size.
    Role:
        /// `[V, H]`; of the model, for [`Model::load_globals`](crate::Model::load_globals), like the next three.
        Embedding = CF_ROLE_EMBEDDING,
        /// `[H]`
        FinalNormWeight = CF_ROLE_FINAL_NORM_WEIGHT,
        /// `[H]`, LayerNorm only
        FinalNormBias = CF_ROLE_FINAL_NORM_BIAS,
        /// `[V, H]`, unless tied_embeddings
        Head = CF_ROLE_HEAD,
        /// `[H]`, before attention; of a layer, for [`Model::load_layer`](crate::Model::load_layer), like all that follow.
        AttentionNormWeight = CF_ROLE_ATTENTION_NORM_WEIGHT,
        /// `[H]`, LayerNorm only
        AttentionNormBias = CF_ROLE_ATTENTION_NORM_BIAS,
        /// `[H]`, before the MLP
        MlpNormWeight = CF_ROLE_MLP_NORM_WEIGHT,
        /// `[H]`, LayerNorm only
        MlpNormBias = CF_ROLE_MLP_NORM_BIAS,
        /// `[A * 3 * D, H]`, for each head its Q, K and V rows, as GPT-NeoX stores them; or Q, K and V apart.
        QkvWeight = CF_ROLE_QKV_WEIGHT,
        /// `[A * 3 * D]`
        QkvBias = CF_ROLE_QKV_BIAS,
        /// `[A * D, H]`
        QWeight = CF_ROLE_Q_WEIGHT,
        /// `[A * D]`
        QBias = CF_ROLE_Q_BIAS,
        /// `[G * D, H]`
        KWeight = CF_ROLE_K_WEIGHT,
        /// `[G * D]`
        KBias = CF_ROLE_K_BIAS,
        /// `[G * D, H]`
        VWeight = CF_ROLE_V_WEIGHT,
        /// `[G * D]`
        VBias = CF_ROLE_V_BIAS,
        /// `[H, A * D]`
        OWeight = CF_ROLE_O_WEIGHT,
        /// `[H]`
        OBias = CF_ROLE_O_BIAS,
        /// `[I, H]`, SwiGLU only
        GateWeight = CF_ROLE_GATE_WEIGHT,
        /// `[I]`
        GateBias = CF_ROLE_GATE_BIAS,
        /// `[I, H]`
        UpWeight = CF_ROLE_UP_WEIGHT,
        /// `[I]`
        UpBias = CF_ROLE_UP_BIAS,
        /// `[H, I]`
        DownWeight = CF_ROLE_DOWN_WEIGHT,
        /// `[H]`
        DownBias = CF_ROLE_DOWN_BIAS,
    ;
    /// Where a tap is. Shapes of a step of T rows as in [`Role`].
    TapPoint:
        /// `[T, H]` residual stream before the block.
        BlockInput = CF_TAP_BLOCK_INPUT,
        /// `[T, H]` residual stream after the block.
        BlockOutput = CF_TAP_BLOCK_OUTPUT,
        /// `[T, A, D]` attention output of each head, before O.
        AttentionHeads = CF_TAP_ATTENTION_HEADS,
        /// `[T, I]` input of MLP-down.
        MlpActivation = CF_TAP_MLP_ACTIVATION,
    ;
}

impl DType {
    /// Bytes of an element; `None` for [`DType::Auto`].
    pub fn size_bytes(self) -> Option<usize> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(4),
            Self::F16 | Self::BF16 => Some(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_newer_library_are_named() {
        assert_eq!(DType::of(sys::CF_DTYPE_BF16), Ok(DType::BF16));
        assert_eq!(DType::of(77).unwrap_err().sentence(), "libclusterfusion gave 77 as DType, which this crate does not know");
    }
}
