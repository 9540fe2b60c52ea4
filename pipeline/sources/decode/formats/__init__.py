"""What formats of images need: complete decoding, checks for damage, packages of extras."""
