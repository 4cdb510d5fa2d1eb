# For who asks, and nobody else: WHERRY_KERNEL = "required wanted optional", or fewer of them, in local.conf.
include ${@'wherry-kernel.inc' if d.getVar('WHERRY_KERNEL') else ''}
