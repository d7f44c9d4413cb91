#version 450
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

// Products of matrices, one for each of a batch: C[i, j] = sum over k of A[i, k] * B[k, j], in order, one fused multiply-add each. Columns j and
// depths k may stand for up to three axes, and B may be gathered from an image with zeros around it: so a convolution and its gradients are
// products, whose matrices are never written down.
//
// A group of eight invocations computes up to 16 rows of 32 columns, four columns an invocation. What all of them need of A each reads an eighth
// of; a shuffle, which costs one instruction where a read costs dozens, hands it to the others. Where elements are neighbours, four are read
// at a time.

layout(local_size_x = 8) in;

// Extents.
layout(constant_id = 0) const uint BATCH = 1;
layout(constant_id = 1) const uint ROWS = 16;
layout(constant_id = 2) const uint COLUMNS0 = 1;
layout(constant_id = 3) const uint COLUMNS1 = 1;
layout(constant_id = 4) const uint COLUMNS2 = 32;
layout(constant_id = 5) const uint DEPTH0 = 1;
layout(constant_id = 6) const uint DEPTH1 = 1;
layout(constant_id = 7) const uint DEPTH2 = 4;
// Rows of a tile: at most 16, and a multiple of four where A is read by fours along its rows.
layout(constant_id = 8) const uint HEIGHT = 16;
// How an operand is read: element by element, or by fours along its first or its second axis. By fours, its other strides are multiples
// of four, and so is the extent of that axis. Where A is read by fours there is one axis of depth, a multiple of four; B is then too, or not.
const uint SINGLE = 0;
const uint FIRST = 1;
const uint SECOND = 2;
layout(constant_id = 9) const uint A_READ = SECOND;
layout(constant_id = 10) const uint B_READ = SECOND;
// Places are sums: where the first element lies, and strides; what is negative wraps.
layout(constant_id = 11) const uint A_START = 0;
layout(constant_id = 12) const uint A_BATCH = 0;
layout(constant_id = 13) const uint A_ROW = 4;
layout(constant_id = 14) const uint A_DEPTH0 = 0;
layout(constant_id = 15) const uint A_DEPTH1 = 0;
layout(constant_id = 16) const uint A_DEPTH2 = 1;
layout(constant_id = 17) const uint B_START = 0;
layout(constant_id = 18) const uint B_BATCH = 0;
layout(constant_id = 19) const uint B_DEPTH0 = 0;
layout(constant_id = 20) const uint B_DEPTH1 = 0;
layout(constant_id = 21) const uint B_DEPTH2 = 32;
layout(constant_id = 22) const uint B_COLUMNS0 = 0;
layout(constant_id = 23) const uint B_COLUMNS1 = 0;
layout(constant_id = 24) const uint B_COLUMNS2 = 1;
layout(constant_id = 25) const uint C_START = 0;
layout(constant_id = 26) const uint C_BATCH = 0;
layout(constant_id = 27) const uint C_ROW = 32;
layout(constant_id = 28) const uint C_COLUMNS0 = 0;
layout(constant_id = 29) const uint C_COLUMNS1 = 0;
layout(constant_id = 30) const uint C_COLUMNS2 = 1;
// B is 0 where one of these sums is not below its limit. Without limits, all of it is there.
layout(constant_id = 31) const uint LIMITS = 0;
layout(constant_id = 32) const uint Y_LIMIT = 1;
layout(constant_id = 33) const uint Y_START = 0;
layout(constant_id = 34) const uint Y_BATCH = 0;
layout(constant_id = 35) const uint Y_DEPTH0 = 0;
layout(constant_id = 36) const uint Y_DEPTH1 = 0;
layout(constant_id = 37) const uint Y_DEPTH2 = 0;
layout(constant_id = 38) const uint Y_COLUMNS0 = 0;
layout(constant_id = 39) const uint Y_COLUMNS1 = 0;
layout(constant_id = 40) const uint Y_COLUMNS2 = 0;
layout(constant_id = 41) const uint X_LIMIT = 1;
layout(constant_id = 42) const uint X_START = 0;
layout(constant_id = 43) const uint X_BATCH = 0;
layout(constant_id = 44) const uint X_DEPTH0 = 0;
layout(constant_id = 45) const uint X_DEPTH1 = 0;
layout(constant_id = 46) const uint X_DEPTH2 = 0;
layout(constant_id = 47) const uint X_COLUMNS0 = 0;
layout(constant_id = 48) const uint X_COLUMNS1 = 0;
layout(constant_id = 49) const uint X_COLUMNS2 = 0;

// Texels of four elements, or of one where that is how the operand is read.
layout(binding = 0) uniform textureBuffer a_texels;
layout(binding = 1) uniform textureBuffer b_texels;
layout(binding = 2) writeonly buffer C { float c[]; };
// The elements at which the operands and the result begin.
layout(push_constant) uniform Bases { uint a_base; uint b_base; uint c_base; };

const uint COLUMNS = COLUMNS0 * COLUMNS1 * COLUMNS2;
// Depths of one turn.
const uint STEP = A_READ == SINGLE ? 1 : 4;
// How often each invocation reads A for that.
const uint A_READS = A_READ == FIRST ? 2 : (HEIGHT + 7) / 8;

void main() {
    const uint lane = gl_SubgroupInvocationID % 8;
    const uint down = (ROWS + HEIGHT - 1) / HEIGHT;
    const uint across = (COLUMNS + 31) / 32;
    const uint number = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    const uint batch = number / (down * across);
    if (batch >= BATCH) return;
    const uint row = number % down * HEIGHT;
    const uint column = number / down % across * 32;

    // Where this invocation reads A: of rows of four depths, of depths of four rows, or of single elements.
    uint a_at[2];
    for (uint i = 0; i < A_READS; i++) {
        a_at[i] = A_READ == FIRST ? min(row + lane % 4 * 4, ROWS - 4) + (2 * i + lane / 4) * A_DEPTH2
                                  : min(row + lane + 8 * i, ROWS - 1) * A_ROW;
        a_at[i] += a_base + batch * A_BATCH + A_START;
    }
    // The same of B, and what its limits bound; and where C is written.
    uint b_at[4], y_at[4], x_at[4], c_at[4];
    bool is_there[4];
    for (uint i = 0; i < 4; i++) {
        const uint own = B_READ == SECOND ? column + 4 * lane + i : column + lane + 8 * i;
        is_there[i] = COLUMNS % 32 == 0 || own < COLUMNS;
        const uint at = min(own, COLUMNS - 1);
        const uint j0 = at / (COLUMNS1 * COLUMNS2), j1 = at / COLUMNS2 % COLUMNS1, j2 = at % COLUMNS2;
        b_at[i] = b_base + B_START + batch * B_BATCH;
        b_at[i] += B_READ == SECOND ? min(column + 4 * lane, COLUMNS - 4) + i * B_DEPTH2
                                    : j0 * B_COLUMNS0 + j1 * B_COLUMNS1 + j2 * B_COLUMNS2;
        y_at[i] = Y_START + batch * Y_BATCH + j0 * Y_COLUMNS0 + j1 * Y_COLUMNS1 + j2 * Y_COLUMNS2;
        x_at[i] = X_START + batch * X_BATCH + j0 * X_COLUMNS0 + j1 * X_COLUMNS1 + j2 * X_COLUMNS2;
        c_at[i] = c_base + C_START + batch * C_BATCH + row * C_ROW + j0 * C_COLUMNS0 + j1 * C_COLUMNS1 + j2 * C_COLUMNS2;
    }

    vec4 sum[16];
    for (uint r = 0; r < HEIGHT; r++) sum[r] = vec4(0);
    for (uint k0 = 0; k0 < DEPTH0; k0++) for (uint k1 = 0; k1 < DEPTH1; k1++) for (uint k2 = 0; k2 < DEPTH2; k2 += STEP) {
        const uint a_step = k0 * A_DEPTH0 + k1 * A_DEPTH1 + k2 * A_DEPTH2;
        const uint b_step = k0 * B_DEPTH0 + k1 * B_DEPTH1 + k2 * B_DEPTH2;
        const uint y_step = k0 * Y_DEPTH0 + k1 * Y_DEPTH1 + k2 * Y_DEPTH2;
        const uint x_step = k0 * X_DEPTH0 + k1 * X_DEPTH1 + k2 * X_DEPTH2;
        vec4 a[2], b[4];
        for (uint i = 0; i < A_READS; i++) {
            const uint at = a_at[i] + a_step;
            a[i] = texelFetch(a_texels, int(A_READ == SINGLE ? at : at / 4));
        }
        for (uint i = 0; i < 4; i++) {
            const uint at = b_at[i] + b_step;
            if (B_READ != SINGLE) {
                b[i] = texelFetch(b_texels, int(at / 4));
            } else {
                for (uint j = 0; j < STEP; j++) {
                    const bool is_inside = LIMITS == 0 || y_at[i] + y_step + j * Y_DEPTH2 < Y_LIMIT && x_at[i] + x_step + j * X_DEPTH2 < X_LIMIT;
                    const float element = texelFetch(b_texels, int(is_inside ? at + j * B_DEPTH2 : 0)).x;
                    b[i][j] = is_inside ? element : 0;
                }
            }
        }
        for (uint j = 0; j < STEP; j++) {
            const vec4 line = B_READ == SECOND ? b[j] : vec4(b[0][j], b[1][j], b[2][j], b[3][j]);
            for (uint r = 0; r < HEIGHT; r++) {
                const float x = A_READ == FIRST ? subgroupShuffle(a[j / 2][r % 4], j % 2 * 4 + r / 4)
                                                : subgroupShuffle(a[r / 8][j], r % 8);
                sum[r] = fma(vec4(x), line, sum[r]);
            }
        }
    }
    for (uint r = 0; r < HEIGHT; r++) {
        for (uint i = 0; i < 4; i++) {
            if ((ROWS % HEIGHT == 0 || row + r < ROWS) && is_there[i]) c[c_at[i] + r * C_ROW] = sum[r][i];
        }
    }
}
