#!/usr/bin/env bash
# Debian's `libshaderc-dev` as one archive, which the crate `shaderc` wants: ./shaders/archive.sh FOLDER, then SHADERC_LIB_DIR=FOLDER
set -euo pipefail
mkdir -p "$1"
from=/usr/lib/$(cc -dumpmachine)
{
  echo "create $1/libshaderc_combined.a"
  for part in shaderc_combined glslang MachineIndependent GenericCodeGen OSDependent OGLCompiler HLSL SPIRV SPIRV-Tools-opt SPIRV-Tools; do
    echo "addlib $from/lib$part.a"
  done
  echo save
} | ar -M
