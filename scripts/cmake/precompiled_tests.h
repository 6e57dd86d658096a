// What most tests include; read where LONGSCAN_PCH is on.
#include <doctest/doctest.h>

#include "precompiled.h"
