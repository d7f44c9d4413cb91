//! How instructions name their operands, of those that bodies are made of.
//!
//! The assembler's library knows it of every instruction that there is, but makes its table of them when it is first asked: 2 ms. Wherever code is
//! compiled with assertions, what stands here is compared with that table.

use iced_x86::{Code, OpCodeOperandKind, Register};

/// The lowest of the registers that an operand is in, if it is not a whole one.
type Part = Option<Register>;

/// Which part of its registers an instruction writes, and which part it reads.
pub fn parts(code: Code) -> (Part, Part) {
    let (xmm, ymm) = (Some(Register::XMM0), Some(Register::YMM0));
    match code {
        Code::VEX_Vpackssdw_xmm_xmm_xmmm128
        | Code::VEX_Vpacksswb_xmm_xmm_xmmm128
        | Code::VEX_Vpackusdw_xmm_xmm_xmmm128
        | Code::VEX_Vpackuswb_xmm_xmm_xmmm128
        | Code::VEX_Vmovq_xmmm64_xmm
        | Code::VEX_Vmovups_xmmm128_xmm => (xmm, xmm),
        Code::VEX_Vextracti128_xmmm128_ymm_imm8
        | Code::VEX_Vcvtps2ph_xmmm128_ymm_imm8
        | Code::EVEX_Vpmovdb_xmmm128_k1z_zmm => (xmm, None),
        Code::EVEX_Vpmovdw_ymmm256_k1z_zmm | Code::EVEX_Vcvtps2ph_ymmm256_k1z_zmm_imm8_sae => (ymm, None),
        Code::VEX_Vpbroadcastd_ymm_xmmm32
        | Code::VEX_Vcvtph2ps_ymm_xmmm128
        | Code::VEX_Vpmovsxbd_ymm_xmmm64
        | Code::VEX_Vpmovsxwd_ymm_xmmm128
        | Code::VEX_Vpmovzxbd_ymm_xmmm64
        | Code::VEX_Vpmovzxwd_ymm_xmmm128
        | Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32
        | Code::EVEX_Vpmovsxbd_zmm_k1z_xmmm128
        | Code::EVEX_Vpmovzxbd_zmm_k1z_xmmm128 => (None, xmm),
        Code::EVEX_Vcvtph2ps_zmm_k1z_ymmm256_sae
        | Code::EVEX_Vpmovsxwd_zmm_k1z_ymmm256
        | Code::EVEX_Vpmovzxwd_zmm_k1z_ymmm256 => (None, ymm),
        _ => (None, None),
    }
}

/// Which of so many operands an instruction of AVX2 on whole registers may read from memory.
pub fn in_memory(code: Code, operands: usize) -> Option<usize> {
    match code {
        Code::VEX_Vblendvps_ymm_ymm_ymmm256_ymm => Some(1),
        Code::VEX_Vpslld_ymm_ymm_imm8
        | Code::VEX_Vpsllq_ymm_ymm_imm8
        | Code::VEX_Vpsrad_ymm_ymm_imm8
        | Code::VEX_Vpsrld_ymm_ymm_imm8
        | Code::VEX_Vpsrlq_ymm_ymm_imm8 => None,
        _ => operands.checked_sub(1).filter(|_| parts(code) == (None, None)),
    }
}

/// Whether the library says so too: that an operand is in that register.
pub fn is_so(code: Code, operand: usize, register: Register) -> bool {
    use OpCodeOperandKind as Kind;
    match code.op_code().op_kind(operand as u32) {
        Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_vvvv | Kind::xmm_is4 | Kind::xmm_or_mem => register.is_xmm(),
        Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv | Kind::ymm_is4 | Kind::ymm_or_mem => register.is_ymm(),
        Kind::zmm_reg | Kind::zmm_rm | Kind::zmm_vvvv | Kind::zmm_or_mem => register.is_zmm(),
        _ => register.is_k(),
    }
}
