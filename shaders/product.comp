#version 450
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

// Products of matrices, one for each of a batch: C[i, j] = sum over k of A[i, k] * B[k, j], in order, one fused multiply-add each.
//
// A group of eight invocations computes up to 16 rows of 32 columns, four columns an invocation. Each operand is read four neighbouring
// elements at a time. What all invocations need of A each of them reads an eighth of; a shuffle, which costs one instruction where a read
// costs dozens, hands it to the others.

layout(local_size_x = 8) in;

// Extents; those along which four elements are read are multiples of four.
layout(constant_id = 0) const uint ROWS = 16;
layout(constant_id = 1) const uint COLUMNS = 32;
layout(constant_id = 2) const uint DEPTH = 4;
// Rows of a tile: at most 16, and a multiple of four where A's rows are contiguous.
layout(constant_id = 3) const uint HEIGHT = 16;
// Strides from one of the batch to the next, along the first axis, and along the second; of A and B one of the latter is 1.
layout(constant_id = 4) const uint A_BATCH = 0;
layout(constant_id = 5) const uint A_ROW = 4;
layout(constant_id = 6) const uint A_DEPTH = 1;
layout(constant_id = 7) const uint B_BATCH = 0;
layout(constant_id = 8) const uint B_DEPTH = 32;
layout(constant_id = 9) const uint B_COLUMN = 1;
layout(constant_id = 10) const uint C_BATCH = 0;
layout(constant_id = 11) const uint C_ROW = 32;
layout(constant_id = 12) const uint C_COLUMN = 1;
// How many products there are.
layout(constant_id = 13) const uint BATCH = 1;

layout(binding = 0) uniform textureBuffer a_quads;
layout(binding = 1) uniform textureBuffer b_quads;
layout(binding = 2) writeonly buffer C { float c[]; };
// The elements at which the operands and the result begin.
layout(push_constant) uniform Bases { uint a_base; uint b_base; uint c_base; };

void main() {
    const uint lane = gl_SubgroupInvocationID % 8;
    const uint down = (ROWS + HEIGHT - 1) / HEIGHT;
    const uint across = (COLUMNS + 31) / 32;
    const uint number = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    const uint batch = number / (down * across);
    if (batch >= BATCH) return;
    const uint row = number % down * HEIGHT;
    const uint column = number / down % across * 32;

    uint a_at[2], a_step;
    for (uint i = 0; i < 2; i++) {
        if (A_DEPTH == 1) { // each reads its row, of four columns
            a_at[i] = min(row + lane + 8 * i, ROWS - 1) * A_ROW;
            a_step = 1;
        } else { // four of them read four rows each, of one column
            a_at[i] = min(row + lane % 4 * 4, ROWS - 4) + (2 * i + lane / 4) * A_DEPTH;
            a_step = A_DEPTH;
        }
        a_at[i] = (a_base + batch * A_BATCH + a_at[i]) / 4;
    }
    uint b_at[4];
    for (uint i = 0; i < 4; i++) {
        b_at[i] = B_COLUMN == 1 ? min(column + 4 * lane, COLUMNS - 4) + i * B_DEPTH
                                : min(column + lane + 8 * i, COLUMNS - 1) * B_COLUMN;
        b_at[i] = (b_base + batch * B_BATCH + b_at[i]) / 4;
    }
    const uint b_step = B_COLUMN == 1 ? B_DEPTH : 1;

    vec4 sum[16];
    for (uint r = 0; r < HEIGHT; r++) sum[r] = vec4(0);
    for (uint k = 0; k < DEPTH; k += 4) {
        vec4 a[2], b[4];
        a[0] = texelFetch(a_quads, int(a_at[0]));
        a[1] = HEIGHT > 8 || A_DEPTH != 1 ? texelFetch(a_quads, int(a_at[1])) : vec4(0);
        for (uint i = 0; i < 2; i++) a_at[i] += a_step;
        for (uint i = 0; i < 4; i++) {
            b[i] = texelFetch(b_quads, int(b_at[i]));
            b_at[i] += b_step;
        }
        for (uint j = 0; j < 4; j++) {
            const vec4 line = B_COLUMN == 1 ? b[j] : vec4(b[0][j], b[1][j], b[2][j], b[3][j]);
            for (uint r = 0; r < HEIGHT; r++) {
                const float x = A_DEPTH == 1 ? subgroupShuffle(a[r / 8][j], r % 8)
                                             : subgroupShuffle(a[j / 2][r % 4], j % 2 * 4 + r / 4);
                sum[r] = fma(vec4(x), line, sum[r]);
            }
        }
    }
    for (uint r = 0; r < HEIGHT; r++) {
        for (uint i = 0; i < 4; i++) {
            const uint at = column + (B_COLUMN == 1 ? 4 * lane + i : lane + 8 * i);
            if ((ROWS % HEIGHT == 0 || row + r < ROWS) && (COLUMNS % 32 == 0 || at < COLUMNS)) c[c_base + batch * C_BATCH + (row + r) * C_ROW + at * C_COLUMN] = sum[r][i];
        }
    }
}
