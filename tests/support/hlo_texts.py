# ruff: noqa: E501
"""Small programs as XLA prints them, in the ways that a TPU's programs differ from a CPU's."""

# A loop of 5 turns around a loop whose turns are an argument, both with transfers; one of them XLA has cut in two.
LOOPS = """\
HloModule jit_steps, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%gathering (part: f32[16,8]) -> f32[64,8] {
  %part = f32[16,8]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.1 = f32[64,8]{1,0} all-gather(%part), channel_id=7, replica_groups=mesh['d'=4,'m'=1] {'d'}, dimensions={0}
}

%turn (carry: (s32[], f32[64,8])) -> (s32[], f32[64,8]) {
  %carry = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %x = f32[64,8]{1,0:T(8,128)} get-tuple-element(%carry), index=1
  %row = f32[16,8]{1,0:T(8,128)S(1)} slice(%x), slice={[0:16], [0:8]}
  %first = f32[64,8]{1,0:T(8,128)} fusion(%row), kind=kLoop, calls=%gathering
  %all-gather.2 = f32[64,8]{1,0:T(8,128)} all-gather(%row), channel_id=7, replica_groups=mesh['d'=4,'m'=1] {'d'}, dimensions={0}
  ROOT %out = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}) tuple(%n, %first)
}

%under (carry: (s32[], f32[64,8])) -> pred[] {
  %carry = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %most = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[]{:T(512)} compare(%n, %most), direction=LT
}

%step (carry: (s32[], f32[64,8], s32[])) -> (s32[], f32[64,8], s32[]) {
  %carry = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}, s32[]{:T(128)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %x = f32[64,8]{1,0:T(8,128)} get-tuple-element(%carry), index=1
  %count = s32[]{:T(128)} get-tuple-element(%carry), index=2
  %start = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}) tuple(%n, %x)
  %inner = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}) while(%start), condition=%under, body=%turn
  %y = f32[64,8]{1,0:T(8,128)} get-tuple-element(%inner), index=1
  %all-reduce.3 = (f32[64,8]{1,0}, f32[]) all-reduce(%y, %n), channel_id=9, replica_groups=[2,2]<=[4], metadata={op_name="jit(steps)/transpose(jvp())/scatter-add"}
  %z = f32[64,8]{1,0:T(8,128)} get-tuple-element(%all-reduce.3), index=0
  ROOT %out = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}, s32[]{:T(128)}) tuple(%n, %z, %count)
}

%before (carry: (s32[], f32[64,8], s32[])) -> pred[] {
  %carry = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}, s32[]{:T(128)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %count = s32[]{:T(128)} get-tuple-element(%carry), index=2
  ROOT %lt = pred[]{:T(512)} compare(%n, %count), direction=LT
}

ENTRY %main (x: f32[64,8], count: s32[]) -> (s32[], f32[64,8], s32[]) {
  %x = f32[64,8]{1,0:T(8,128)} parameter(0)
  %count = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}, s32[]{:T(128)}) tuple(%zero, %x, %count)
  ROOT %loop = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}, s32[]{:T(128)}) while(%start), condition=%before, body=%step
}
"""
# One row of a table is read inside a fusion of a fusion, and one is updated in place.
ROWS = """\
HloModule jit_rows

%slicing (table: f32[1000,128], place: s32[]) -> f32[1,128] {
  %table = f32[1000,128]{1,0:T(8,128)} parameter(0)
  %place = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,128]{1,0:T(1,128)} dynamic-slice(%table, %place, %zero), dynamic_slice_sizes={1,128}
}

%reading (rows: f32[1000,128], at: s32[]) -> f32[1,128] {
  %rows = f32[1000,128]{1,0:T(8,128)} parameter(0)
  %at = s32[] parameter(1)
  ROOT %inner = f32[1,128]{1,0:T(1,128)} fusion(%rows, %at), kind=kLoop, calls=%slicing
}

%writing (table: f32[1000,128], row: f32[1,128], place: s32[]) -> f32[1000,128] {
  %table = f32[1000,128]{1,0:T(8,128)} parameter(0)
  %row = f32[1,128]{1,0:T(1,128)} parameter(1)
  %place = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %new = f32[1000,128]{1,0:T(8,128)} dynamic-update-slice(%table, %row, %place, %zero)
}

ENTRY %main (table: f32[1000,128], place: s32[]) -> f32[1000,128] {
  %table = f32[1000,128]{1,0:T(8,128)} parameter(0)
  %place = s32[] parameter(1)
  %row = f32[1,128]{1,0:T(1,128)} fusion(%table, %place), kind=kLoop, calls=%reading
  ROOT %new = f32[1000,128]{1,0:T(8,128)} fusion(%table, %row, %place), kind=kLoop, calls=%writing
}
"""
