# In place of a build: `make install DESTDIR=…` copies the package's files, `make print NAME=…` prints one of the recipe's values.
define BuildPackage
$(eval $(call Package/$(1)))
export printed = $$(or $$(Package/$(1)/$$(NAME)),$$($$(NAME)))
.PHONY: install print
install:
	$$(call Package/$(1)/install,$$(DESTDIR))
print:
	@printf '%s\n' "$$$$printed"
endef
