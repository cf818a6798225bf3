"""Why a layer, or a part of a training, is at fault, in words. No framework."""
